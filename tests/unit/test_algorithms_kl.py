"""KL estimators against the exact divergence, rewards of tokens, and the adaptive coefficient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.algorithms.kl import AdaptiveKLController, kl_estimate
from scale_rlhf.algorithms.rewards import last_token, token_rewards

logprob = st.floats(-20, 0, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(logprob, logprob)
def test_kinds_by_their_formulas(policy, reference):
    k1, k2, k3 = (float(kl_estimate(torch.tensor(policy).double(), torch.tensor(reference).double(), k))
                  for k in ("k1", "k2", "k3"))
    expected = float(torch.tensor(policy)) - float(torch.tensor(reference))
    assert k1 == pytest.approx(expected, abs=1e-9)
    assert k2 == pytest.approx(expected**2 / 2, rel=1e-9, abs=1e-12)
    assert k3 == pytest.approx(math.exp(-expected) - 1 + expected, rel=1e-9, abs=1e-9)
    assert k3 >= 0 and k2 >= 0


@settings(max_examples=200, deadline=None)
@given(st.floats(-0.01, 0.01))
def test_k3_is_never_negative_near_zero_in_single_precision(difference):
    assert float(kl_estimate(torch.tensor(-1.0) + difference, torch.tensor(-1.0), "k3")) >= 0


def test_k1_and_k3_are_unbiased():
    """Expectation over the policy's whole distribution, not a sample of it."""
    torch.manual_seed(1)
    policy, reference = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    exact = float((policy.exp() * (policy - reference)).sum())
    for kind in ("k1", "k3"):
        assert float((policy.exp() * kl_estimate(policy, reference, kind)).sum()) == pytest.approx(exact, abs=1e-12)


def test_expected_gradients_as_losses():
    """k1: zero. k2: the reverse KL's. k3: the forward KL's."""
    torch.manual_seed(2)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, dtype=torch.float64).log_softmax(-1)

    def gradient(loss):
        return torch.autograd.grad(loss, logits)[0]

    policy = logits.log_softmax(-1)
    reverse = gradient((policy.exp() * (policy - reference)).sum())
    policy = logits.log_softmax(-1)
    forward = gradient((reference.exp() * (reference - policy)).sum())
    expected = {"k1": torch.zeros(5).double(), "k2": reverse, "k3": forward}
    for kind, wanted in expected.items():
        policy = logits.log_softmax(-1)
        found = gradient((policy.detach().exp() * kl_estimate(policy, reference, kind)).sum())
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


def test_token_rewards_put_the_score_on_the_last_real_token():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-1.0, -1.0, -1.0, -1.0]])
    reference = torch.tensor([[-1.5, -1.0, -3.0, 9.0], [-1.0, -1.0, -1.0, -2.0]])
    mask = torch.tensor([[True, True, True, False], [False, True, False, True]])
    rewards = token_rewards(logprobs, reference, torch.tensor([2.0, 5.0]), mask, coefficient=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 2.0, 0.0], [0.0, 0.0, 0.0, 4.9]]))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_token_rewards_ignore_what_is_behind_the_mask(kind):
    torch.manual_seed(3)
    logprobs, reference, scores = -torch.rand(4, 6), -torch.rand(4, 6), torch.randn(4)
    mask = torch.rand(4, 6) > 0.4
    mask[2] = False  # a row without a response: no token, so no score
    clean = token_rewards(logprobs, reference, scores, mask, coefficient=0.3, kind=kind)
    dirty_logprobs = logprobs.masked_fill(~mask, float("nan")).requires_grad_()
    dirty = token_rewards(
        dirty_logprobs, reference.masked_fill(~mask, float("inf")), scores, mask, coefficient=0.3, kind=kind,
    )
    assert torch.equal(clean, dirty)
    dirty.sum().backward()
    assert torch.isfinite(dirty_logprobs.grad).all() and (dirty_logprobs.grad[~mask] == 0).all()
    assert clean[2].tolist() == [0.0] * 6
    penalty = torch.where(mask, kl_estimate(logprobs, reference, kind), torch.zeros(()))
    torch.testing.assert_close(clean.sum(), scores[[0, 1, 3]].sum() - 0.3 * penalty.sum())


def test_last_token():
    mask = torch.tensor([[True, True, False], [False, False, False], [False, True, True]])
    assert last_token(mask).tolist() == [[False, True, False], [False, False, False], [False, False, True]]


def test_score_shape_is_checked():
    with pytest.raises(ValueError, match="scores"):
        token_rewards(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3), torch.ones(2, 3).bool(), coefficient=0.1)


def test_adaptive_controller_follows_the_formula():
    controller = AdaptiveKLController(0.2, target=6.0, horizon=10000)
    assert controller.update(6.0, 256) == 0.2  # on target: unchanged
    assert controller.update(6.6, 256) == pytest.approx(0.2 * (1 + 0.1 * 256 / 10000))
    before = controller.coefficient
    assert controller.update(600.0, 64) == pytest.approx(before * (1 + 0.2 * 64 / 10000))  # clipped above
    before = controller.coefficient
    assert controller.update(-3.0, 64) == pytest.approx(before * (1 - 0.2 * 64 / 10000))  # and below


def test_adaptive_controller_brings_a_responding_kl_to_its_target():
    controller = AdaptiveKLController(1.0, target=2.0, horizon=500)
    for _ in range(2000):
        controller.update(1.0 / controller.coefficient, 64)  # a KL that falls as the coefficient rises
    assert 1.0 / controller.coefficient == pytest.approx(2.0, rel=0.02)


def test_adaptive_controller_never_turns_negative():
    assert AdaptiveKLController(0.1, target=1.0, horizon=10).update(0.0, 1000) == 0.0


@pytest.mark.parametrize("arguments", [
    (0.1, 0.0, 100), (0.1, -1.0, 100), (0.1, float("nan"), 100), (0.1, 1.0, 0), (-0.1, 1.0, 100)])
def test_impossible_controllers_are_errors(arguments):
    with pytest.raises(ValueError, match="expected"):
        AdaptiveKLController(*arguments)


def test_nan_kl_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        AdaptiveKLController(0.1, 1.0, 100).update(float("nan"), 1)
