"""One forward for all: packed, padded and one by one give the same numbers."""

import pytest
import torch

from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.packing import pack
from scale_rlhf.models import loading
from scale_rlhf.models.forward import response_logprobs, response_logprobs_alone, response_values, sample_scores
from tests import tiny

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny.tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return tiny.tiny_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def samples():
    return tiny.samples(9, seed=3)


def padded_hidden(model, samples):
    """The library's own padded forward: ids [B, L], attention mask, and whatever the model gives."""
    ids, attention = tiny.padded(samples)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=attention), ids


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logprobs_do_not_depend_on_packing(policy, samples, attention, rows):
    model = loading.load_causal(str(policy), attention=attention)
    with torch.no_grad():
        packed, entropy = response_logprobs(model, pack(samples, rows), TEMPERATURE)
        single = [response_logprobs(model, pack([sample]), TEMPERATURE) for sample in samples]
    torch.testing.assert_close(packed, torch.cat([part for part, _ in single]), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, torch.cat([part for _, part in single]), atol=1e-5, rtol=0)
    output, ids = padded_hidden(model, samples)
    distribution = torch.log_softmax(output.logits / TEMPERATURE, -1)
    expected, uncertainty = [], -(distribution.exp() * distribution).sum(-1)
    uncertainties = []
    for row, sample in enumerate(samples):
        places = torch.arange(len(sample.prompt.token_ids) - 1, sample.tokens - 1)
        expected.append(distribution[row, places, ids[row, places + 1]])
        uncertainties.append(uncertainty[row, places])
    torch.testing.assert_close(packed, torch.cat(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, torch.cat(uncertainties), atol=1e-5, rtol=0)


def test_logprobs_alone_are_the_same_bits_without_the_entropy(policy, samples):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Exponentials(TorchDispatchMode):
        """Counts exp over a whole distribution, which only the entropy needs."""

        count = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **keywords or {})
            self.count += function is torch.ops.aten.exp.default and result.shape[-1] == model.config.vocab_size
            return result

    model = loading.load_causal(str(policy))
    with torch.no_grad():
        with Exponentials() as both:
            logprobs, _ = response_logprobs(model, pack(samples), TEMPERATURE)
        with Exponentials() as alone:
            assert torch.equal(response_logprobs_alone(model, pack(samples), TEMPERATURE), logprobs)
    assert (both.count, alone.count) == (1, 0)


@pytest.mark.parametrize("rows", [False, True])
def test_values_do_not_depend_on_packing(classifier, samples, rows):
    model = loading.load_scalar(str(classifier))
    with torch.no_grad():
        packed = response_values(model, pack(samples, rows))
        single = torch.cat([response_values(model, pack([sample])) for sample in samples])
    torch.testing.assert_close(packed, single, atol=1e-5, rtol=0)
    output, _ = padded_hidden(model.classifier.base_model, samples)
    scores = model.classifier.score(output.last_hidden_state)[..., 0].detach()
    expected = [scores[row, len(s.prompt.token_ids) - 1 : s.tokens - 1] for row, s in enumerate(samples)]
    torch.testing.assert_close(packed, torch.cat(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [False, True])
def test_scores_are_those_of_plain_transformers(classifier, samples, rows):
    from transformers import AutoModelForSequenceClassification

    model = loading.load_scalar(str(classifier))
    with torch.no_grad():
        packed = sample_scores(model, pack(samples, rows))
        single = torch.cat([sample_scores(model, pack([sample])) for sample in samples])
        plain = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
        ids = [torch.tensor([[*s.prompt.token_ids, *s.response_ids]]) for s in samples]
        expected = torch.cat([plain(input_ids=row, attention_mask=torch.ones_like(row)).logits[:, 0] for row in ids])
    torch.testing.assert_close(packed, single, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [False, True])
def test_gradients_do_not_depend_on_packing(policy, samples, rows):
    def gradient(packs):
        model = loading.load_causal(str(policy))
        for one in packs:
            response_logprobs(model, one, TEMPERATURE)[0].sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, parts = gradient([pack(samples, rows)]), gradient([pack([sample]) for sample in samples])
    torch.testing.assert_close(whole, parts, atol=1e-5 * float(whole.abs().max()), rtol=0)


def test_a_new_head_is_small_seeded_and_without_bias(policy):
    first, again, other = (loading.load_scalar(str(policy), seed=seed).classifier.score for seed in (5, 5, 6))
    assert first.bias is None
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)
    assert float(first.weight.detach().std()) == pytest.approx((64 + 1) ** -0.5, rel=0.3)


def test_a_head_survives_saving(policy, tmp_path, samples):
    model = loading.load_scalar(str(policy))
    loading.save(model, tmp_path / "saved", tokenizer_from=str(policy))
    again = loading.load_scalar(str(tmp_path / "saved"), seed=99)
    with torch.no_grad():
        assert torch.equal(sample_scores(model, pack(samples)), sample_scores(again, pack(samples)))
    assert (tmp_path / "saved" / "tokenizer.json").exists()


def test_dropout_is_off(tmp_path):
    from transformers import Qwen3ForCausalLM

    config = tiny.tiny_config()
    config.attention_dropout = 0.5
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    model = loading.load_causal(str(tmp_path)).train()
    one = pack(tiny.samples(2))
    with torch.no_grad():
        assert torch.equal(response_logprobs(model, one, 1.0)[0], response_logprobs(model, one, 1.0)[0])


def test_an_encoder_starts_no_value_model(tmp_path):
    from tests.families import tiny_encoder

    path = str(tiny_encoder(tmp_path))
    for load in (loading.load_scalar, lambda path: loading.load_aspects(path, ["LABEL_0"])):
        with pytest.raises(ConfigError, match="found an encoder .BertForSequenceClassification.*value.initial=policy"):
            load(path)


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(ConfigError, match="config.json"):
        loading.load_causal(str(tmp_path))
    from transformers import Qwen3ForSequenceClassification

    config = tiny.tiny_config()
    config.num_labels = 3
    Qwen3ForSequenceClassification(config).save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigError, match="3 labels"):
        loading.load_scalar(str(tmp_path / "three"))
