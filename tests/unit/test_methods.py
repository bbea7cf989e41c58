"""Every method that a configuration can name: its formula in plain Python, its properties, and that the names lead somewhere."""

import inspect
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from scale_rlhf.algorithms.aggregation import KINDS, divisor, token_weights
from scale_rlhf.algorithms.cispo import cispo_clipped, cispo_policy_loss
from scale_rlhf.algorithms.estimators import Outcome, grpo, reinforce, reinforce_with_baseline, remax, rloo
from scale_rlhf.algorithms.gspo import gspo_clipped, gspo_policy_loss, sequence_ratio
from scale_rlhf.algorithms.losses import kl_loss, ppo_policy_loss
from scale_rlhf.config.checks import _method
from scale_rlhf.config.methods import ADVANTAGES, LOSSES, Advantages, readers
from scale_rlhf.config.schema import PPOSection
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.critic_free import critic_free_advantages
from scale_rlhf.training.methods import estimator, function, policy_loss

CLIP = {"clip_low": 0.2, "clip_high": 0.3}
NAN = float("nan")


def drawn(seed=0, shape=(4, 6)):
    """(logprobs, old, advantages, mask) in float64; rows of different lengths, one with a gap."""
    random = torch.Generator().manual_seed(seed)
    logprobs, old, advantages = (torch.randn(shape, generator=random, dtype=torch.float64) / 2 for _ in range(3))
    mask = torch.arange(shape[1]) < torch.randint(2, shape[1] + 1, (shape[0], 1), generator=random)
    mask[0, 1] = False
    return logprobs - 1, old - 1, advantages, mask


def by_row(mask, *tensors):
    """[(row, its masked values of each tensor, as lists)]."""
    return [[tensor[row][mask[row]].tolist() for tensor in tensors] for row in range(len(mask))]


# --- names ----------------------------------------------------------------------------------------------------------------

def test_every_name_leads_to_a_function_that_takes_the_keys_it_reads():
    for name, method in ADVANTAGES.items():
        assert set(method.keys) <= set(PPOSection.model_fields)
        if not method.critic:
            assert [*inspect.signature(function(method.estimator)).parameters] == ["outcome", *method.keys], name
            assert callable(estimator(PPOSection(advantages=name, responses_per_prompt=2)))
    for name, method in LOSSES.items():
        expected = ["logprobs", "old_logprobs", "advantages", "mask"]
        assert [*inspect.signature(function(method.function)).parameters] == [*expected, *method.keys, "denominator"], name
        assert [*inspect.signature(function(method.clipped)).parameters] == [*expected, "clip_low", "clip_high"], name
    assert readers("dual_clip") == ("loss", ["ppo"]) and readers("steps") == ("", [])
    assert readers("gamma") == ("advantages", ["gae", "reinforce_plus_plus"])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_proportional_to_the_size_of_the_advantage_and_says_what_it_clips(name):
    """Weights of tokens are multiplied into advantages: a weight on those must be a weight on the loss."""
    loss, clipped = policy_loss(PPOSection(loss=name))
    logprobs, old, advantages, mask = drawn()
    weights = torch.rand(mask.shape, dtype=torch.float64)
    single = [float(loss(logprobs, old, advantages * (torch.arange(mask.numel()) == place).view(mask.shape), mask, denominator=1))
              for place in range(mask.numel())]
    expected = sum(weight * one for weight, one in zip(weights.flatten().tolist(), single, strict=True))
    assert float(loss(logprobs, old, advantages * weights, mask, denominator=1)) == pytest.approx(expected, rel=1e-9)
    assert 0 < int(clipped(logprobs, old, advantages, mask).sum()) < int(mask.sum())
    assert torch.equal(clipped(logprobs, old, advantages, mask), clipped(logprobs, old, advantages * weights, mask))


# --- losses ---------------------------------------------------------------------------------------------------------------

def slow_gspo(new, old, advantage):
    """A response's −min(A·s, A·clip(s)), with one advantage; plain Python."""
    s = math.exp(sum(n - o for n, o in zip(new, old, strict=True)) / len(new))
    return -min(advantage * s, advantage * min(max(s, 0.8), 1.3)), s


@pytest.mark.parametrize("seed", range(4))
def test_gspo_is_the_clipped_ratio_of_whole_responses(seed):
    logprobs, old, _, mask = drawn(seed)
    advantages = torch.linspace(-1, 2, len(mask), dtype=torch.float64)
    weights = token_weights(mask, "sequence_mean", longest=6)
    x = logprobs.clone().requires_grad_()
    loss = gspo_policy_loss(x, old, advantages[:, None] * weights, mask, **CLIP, denominator=len(mask))
    loss.backward()
    slow = [slow_gspo(new, before, float(a)) for (new, before), a in zip(by_row(mask, logprobs, old), advantages, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(one for one, _ in slow) / len(slow), rel=1e-6)
    assert sequence_ratio(logprobs, old, mask)[:, 0].tolist() == pytest.approx([s for _, s in slow])

    # Equation 5 as it is written, differentiated as a whole.
    y = logprobs.clone().requires_grad_()
    difference = torch.where(mask, y - old, torch.zeros(()))
    s = (difference.sum(-1) / mask.sum(-1)).exp()
    (-torch.minimum(advantages * s, advantages * s.clamp(0.8, 1.3))).mean().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-8, rtol=1e-6)
    clipped = gspo_clipped(logprobs, old, advantages[:, None].expand(mask.shape), mask, **CLIP)
    assert all(set(clipped[row][mask[row]].tolist()) == {bool((a > 0 and s > 1.3) or (a < 0 and s < 0.8))}
               for row, (a, (_, s)) in enumerate(zip(advantages.tolist(), slow, strict=True)))


@pytest.mark.parametrize("seed", range(4))
def test_cispo_against_loops(seed):
    logprobs, old, advantages, mask = drawn(seed)
    x = logprobs.clone().requires_grad_()
    loss = cispo_policy_loss(x, old, advantages, mask, **CLIP)
    loss.backward()
    terms, gradients, cut = [], [], []
    for new, before, advantage in by_row(mask, logprobs, old, advantages):
        for n, o, a in zip(new, before, advantage, strict=True):
            weight = min(max(math.exp(n - o), 0.8), 1.3)
            terms.append(-weight * a * n)
            gradients.append(-weight * a)
            cut.append(weight != math.exp(n - o))
    assert float(loss.detach()) == pytest.approx(sum(terms) / len(terms))
    assert x.grad[mask].tolist() == pytest.approx([g / len(terms) for g in gradients])  # no token without a gradient
    assert cispo_clipped(logprobs, old, advantages, mask, **CLIP)[mask].tolist() == cut


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_kl_as_a_loss_against_loops(kind):
    logprobs, old, reference, mask = drawn()
    x = logprobs.clone().requires_grad_()
    weights = torch.rand(mask.shape, dtype=torch.float64)
    loss = kl_loss(x, old, reference, mask, kind=kind, weights=weights, denominator=7)
    loss.backward()
    terms, gradients = [], []
    for row in by_row(mask, logprobs, old, reference, weights):
        for n, o, ref, w in zip(*row, strict=True):
            k1, ratio = n - ref, math.exp(n - o)
            terms.append(w * ratio * (k1 * k1 / 2 if kind == "k2" else math.exp(-k1) - 1 + k1))
            gradients.append(w * ratio * (k1 if kind == "k2" else 1 - math.exp(-k1)))
    assert float(loss.detach()) == pytest.approx(sum(terms) / 7)
    assert x.grad[mask].tolist() == pytest.approx([g / 7 for g in gradients])


def test_k1_as_a_loss_is_refused():
    logprobs, old, reference, mask = drawn()
    with pytest.raises(ValueError, match="its expected gradient is zero"):
        kl_loss(logprobs, old, reference, mask, kind="k1")


def each_loss(old, advantages, mask, **more):
    yield lambda x: gspo_policy_loss(x, old, advantages, mask, **CLIP, **more)
    yield lambda x: cispo_policy_loss(x, old, advantages, mask, **CLIP, **more)
    yield lambda x: kl_loss(x, old, advantages, mask, kind="k2", **more)
    yield lambda x: kl_loss(x, old, advantages, mask, kind="k3", **more)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf, 1e30])
def test_what_is_behind_the_mask_changes_nothing(which, rubbish):
    logprobs, old, advantages, mask = drawn()
    clean, dirty = logprobs.clone().requires_grad_(), logprobs.masked_fill(~mask, rubbish).requires_grad_()
    value = [*each_loss(old, advantages, mask)][which](clean)
    same = [*each_loss(old.masked_fill(~mask, -rubbish), advantages.masked_fill(~mask, rubbish), mask)][which](dirty)
    value.backward(), same.backward()
    assert torch.equal(value, same) and torch.equal(clean.grad, dirty.grad) and (dirty.grad[~mask] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", range(4))
def test_the_gradient_does_not_depend_on_the_cut(which, kind):
    """Rows in three parts, each padded as it needs, over the counts of the whole; against the whole at once."""
    logprobs, old, advantages, mask = drawn(shape=(7, 5))
    over = divisor(int(mask.sum()), len(mask), kind)
    whole, parts = (logprobs.clone().requires_grad_() for _ in range(2))

    def loss(x, rows, width):
        own = mask[rows, :width]
        weighted = advantages[rows, :width] * token_weights(own, kind, longest=9)
        return [*each_loss(old[rows, :width], weighted, own, denominator=over)][which](x[rows, :width])

    loss(whole, slice(0, 7), 5).backward()
    for rows in (slice(0, 1), slice(1, 4), slice(4, 7)):
        width = int(mask[rows].nonzero()[:, 1].max()) + 1
        loss(parts, rows, width).backward()
    torch.testing.assert_close(whole.grad, parts.grad, atol=1e-15, rtol=1e-9)
    assert whole.grad.abs().max() > 0


def test_what_counts_alike_by_aggregation():
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    tokens = {kind: token_weights(mask, kind, longest=8) for kind in KINDS}
    assert tokens["token_mean"].sum(-1).tolist() == [4, 1] and divisor(5, 2, "token_mean") == 5
    assert tokens["sequence_mean"].sum(-1).tolist() == [1, 1] and divisor(5, 2, "sequence_mean") == 2
    assert tokens["constant"].sum(-1).tolist() == [0.5, 0.125] and divisor(5, 2, "constant") == 2
    with pytest.raises(ValueError, match="token_mean, sequence_mean, constant"):
        token_weights(mask, "mean", longest=8)


def test_at_the_old_policy_every_loss_has_the_gradient_of_reinforce():
    logprobs, _, advantages, mask = drawn()
    for name in LOSSES:
        x = logprobs.clone().requires_grad_()
        advantage = advantages[:, :1].expand(mask.shape)  # one a response, as gspo has it
        policy_loss(PPOSection(loss=name))[0](x, logprobs, advantage, mask, denominator=1).backward()
        torch.testing.assert_close(x.grad, torch.where(mask, -advantage, torch.zeros(())), msg=name)


# --- advantages -----------------------------------------------------------------------------------------------------------

REWARDS = torch.tensor([[0.1, -0.2, 1.0], [0.0, 3.0, NAN], [-0.1, 0.1, 2.0], [2.0, NAN, NAN], [0.5, 0.5, -1.0]])
MASK = ~REWARDS.isnan()
GROUPS = torch.tensor([4, 4, 4, 7, 7])
TOTALS = [0.9, 3.0, 2.0, 2.0, 0.0]


def rows_of(advantages) -> list[list[float]]:
    assert (advantages[~MASK] == 0).all()
    return [row[seen].tolist() for row, seen in zip(advantages, MASK, strict=True)]


def alike(advantages) -> list[float]:
    rows = rows_of(advantages)
    assert all(len(set(row)) == 1 for row in rows)
    return [row[0] for row in rows]


def test_methods_that_compare_responses():
    outcome = Outcome(REWARDS, MASK, GROUPS)
    means = [5.9 / 3] * 3 + [1.0] * 2
    centred = [total - mean for total, mean in zip(TOTALS, means, strict=True)]
    assert alike(reinforce_with_baseline(outcome)) == pytest.approx(centred, abs=1e-6)
    assert alike(grpo(outcome, scale_by_std=False)) == pytest.approx(centred, abs=1e-6)
    deviations = [math.sqrt(sum(c * c for c in centred[:3]) / 2)] * 3 + [math.sqrt(2.0)] * 2
    assert alike(grpo(outcome, scale_by_std=True)) == pytest.approx(
        [c / d for c, d in zip(centred, deviations, strict=True)], abs=1e-6)
    others = [2.5, 1.45, 1.95, 0.0, 2.0]
    assert alike(rloo(outcome)) == pytest.approx([t - o for t, o in zip(TOTALS, others, strict=True)], abs=1e-6)


def test_reinforce_and_remax_are_rewards_to_go():
    outcome = Outcome(REWARDS, MASK, GROUPS, torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]))
    to_go = [[0.9, 0.8, 1.0], [3.0, 3.0], [2.0, 2.1, 2.0], [2.0], [0.0, -0.5, -1.0]]
    for found, expected in zip(rows_of(reinforce(outcome, gamma=1.0)), to_go, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    for row, (found, expected) in enumerate(zip(rows_of(remax(outcome)), to_go, strict=True)):
        assert found == pytest.approx([one - (1.0 if row < 3 else -1.0) for one in expected], abs=1e-6)
    assert rows_of(reinforce(outcome, gamma=0.5))[0] == pytest.approx([0.1 - 0.1 + 0.25, -0.2 + 0.5, 1.0], abs=1e-6)
    with pytest.raises(ValueError, match="a greedy response"):
        remax(Outcome(REWARDS, MASK, GROUPS))


def batch_of(scores, groups, *, kl=0.0, baselines=None) -> TrainingBatch:
    """Responses of two tokens, each `kl` nats from the reference."""
    samples = [Sample(Prompt(i, group, np.zeros(2, np.int32)), np.zeros(2, np.int32), np.full(2, -1.0, np.float32),
                      np.zeros(2, np.int32), ended=True) for i, group in enumerate(groups)]
    reference = [np.full(2, -1.0 - kl / 2, np.float32)] * len(samples)
    return TrainingBatch(samples, np.asarray(scores, np.float32), reference, 0.1, None, baselines)


def test_whitening_is_over_the_whole_batch_and_only_where_the_method_has_it():
    batch = batch_of([1.0, 3.0, 2.0, 8.0], [0, 0, 1, 1])
    for name in ("reinforce_plus_plus", "reinforce_plus_plus_baseline"):
        flat = np.concatenate(critic_free_advantages(batch, PPOSection(advantages=name))[0])
        assert flat.mean() == pytest.approx(0, abs=1e-6) and flat.std() == pytest.approx(1, abs=1e-5)
    plain, metrics = critic_free_advantages(batch, PPOSection(advantages="leave_one_out"))
    assert [a[0] for a in plain] == pytest.approx([-2, 2, -6, 6]) and metrics["advantage_deviation"] == pytest.approx(20 ** 0.5)
    raw, _ = critic_free_advantages(batch, PPOSection(advantages="reinforce_plus_plus_baseline", whiten_advantages=False))
    assert [a[0] for a in raw] == pytest.approx([-1, 1, -3, 3])


def test_the_penalty_is_in_the_reward_or_it_is_not():
    batch = batch_of([1.0, 3.0], [0, 1], kl=4.0, baselines=np.asarray([0.5, 0.5], np.float32))
    inside, metrics = critic_free_advantages(batch, PPOSection(advantages="remax"))
    assert np.allclose(inside, [[0.1, 0.3], [2.1, 2.3]], atol=1e-6)  # 0.2 nats·β a token, the score, less the baseline
    assert metrics["kl"] == pytest.approx(4.0) and metrics["baseline"] == 0.5 and metrics["silent_share"] == 0
    outside, _ = critic_free_advantages(batch, PPOSection(advantages="remax", kl_in="loss", kl_estimator="k2"))
    assert np.allclose(outside, [[0.5, 0.5], [2.5, 2.5]])


def test_the_share_of_responses_that_say_nothing():
    batch = batch_of([1.0, 1.0, 2.0, 8.0], [0, 0, 1, 1])
    assert critic_free_advantages(batch, PPOSection(advantages="group_relative"))[1]["silent_share"] == 0.5


def test_ppo_with_one_response_a_row_is_unchanged_by_padding():
    logprobs, old, advantages, mask = drawn()
    flat = ppo_policy_loss(logprobs[mask], old[mask], advantages[mask], mask[mask], **CLIP)
    torch.testing.assert_close(ppo_policy_loss(logprobs, old, advantages, mask, **CLIP), flat)


def test_the_method_that_the_page_adds_works(monkeypatch):
    """docs/extending.md: its file, and its line."""
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    module = ModuleType("scale_rlhf.algorithms.median")
    exec(file, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, method in eval("{" + line + "}", {"Advantages": Advantages}).items():
        monkeypatch.setitem(ADVANTAGES, name, method)
    ppo = PPOSection.model_construct(**PPOSection(responses_per_prompt=3).model_dump() | {"advantages": "over_median"})
    advantages, _ = critic_free_advantages(batch_of([1.0, 9.0, 2.0], [0, 0, 0]), ppo)
    assert np.allclose(advantages, [[-1, -1], [7, 7], [0, 0]]) and not ppo.critic
    assert list(_method(ppo)) == []
    assert "needs at least 2; found 1" in next(_method(ppo.model_copy(update={"responses_per_prompt": 1})))
