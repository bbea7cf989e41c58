"""The one forward for every model family, and an encoder's scores: against plain transformers, however it is packed."""

import numpy as np
import pytest
import torch

from scale_rlhf.experience.packing import pack
from scale_rlhf.models import loading
from scale_rlhf.models.forward import response_logprobs, response_values, sample_scores
from scale_rlhf.reward.learned import Scores
from tests import tiny
from tests.families import ATTENTION, FAMILIES, ODD_VOCABULARY, WINDOW, family_classifier, family_policy, tiny_encoder

TEMPERATURE = 0.7
SAMPLES = tiny.samples(9, seed=3, vocabulary=ODD_VOCABULARY)
WAYS = [(family, attention) for family in FAMILIES for attention in ("sdpa", "eager") if ATTENTION[family] in ("sdpa", attention)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{(kind, family): folder}, made when first asked for."""
    made, root = {}, tmp_path_factory.mktemp("families")

    def folder(kind, family):
        make = {"policy": family_policy, "classifier": family_classifier}[kind]
        if (kind, family) not in made:
            made[kind, family] = str(make(root / f"{kind}-{family}", family))
        return made[kind, family]

    return folder


def padded(model, **options):
    """The library's own forward on all samples as padded rows with a mask, and the rows."""
    ids, mask = tiny.padded(SAMPLES)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **options), ids


def predicting(sample) -> slice:
    return slice(len(sample.prompt.token_ids) - 1, sample.tokens - 1)


@pytest.mark.parametrize(("family", "attention"), WAYS)
def test_logprobs_are_the_same_packed_padded_and_single(folders, family, attention):
    assert max(sample.tokens for sample in SAMPLES) > 2 * WINDOW
    model = loading.load_causal(folders("policy", family), attention=attention)
    with torch.no_grad():
        found = [response_logprobs(model, pack(SAMPLES, rows), TEMPERATURE)[0] for rows in (False, True)]
        single = torch.cat([response_logprobs(model, pack([sample]), TEMPERATURE)[0] for sample in SAMPLES])
    output, ids = padded(model)
    distribution = torch.log_softmax(output.logits.float() / TEMPERATURE, -1)
    expected = torch.cat([
        distribution[row, predicting(sample)].gather(-1, ids[row, 1:][predicting(sample), None])[:, 0]
        for row, sample in enumerate(SAMPLES)
    ])
    assert float(expected.std()) > 0.5  # the model prefers some tokens, or nothing is compared
    for one in (*found, single):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_a_new_head_are_the_same_packed_padded_and_single(folders, family):
    model = loading.load_scalar(folders("policy", family), attention=ATTENTION[family])
    with torch.no_grad():
        found = [response_values(model, pack(SAMPLES, rows)) for rows in (False, True)]
        single = torch.cat([response_values(model, pack([sample])) for sample in SAMPLES])
        states, _ = padded(model.classifier.base_model)
        values = model.classifier.score(states.last_hidden_state)[..., 0]
    expected = torch.cat([values[row, predicting(sample)] for row, sample in enumerate(SAMPLES)])
    assert float(expected.std()) > 0.1
    for one in (*found, single):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_plain_transformers(folders, family):
    from transformers import AutoModelForSequenceClassification

    path, attention = folders("classifier", family), ATTENTION[family]
    model = loading.load_scalar(path, attention=attention)
    plain = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation=attention).eval()
    with torch.no_grad():
        found = [sample_scores(model, pack(SAMPLES, rows)) for rows in (False, True)]
        whole = [torch.tensor([[*sample.prompt.token_ids, *sample.response_ids]]) for sample in SAMPLES]
        expected = torch.cat([plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0] for ids in whole])
    assert float(expected.std()) > 0.1
    for one in found:
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)


DIALOGUES = [
    ("What is the capital of France?", "Paris."), ("Who?", "I do not know that place, but the capital of France is Paris."),
    ("Tell me how to apply for a job.", "No"),
    ("Help me brainstorm some fun museums to visit in Bogotá. " * 3, "The capital is Paris."),
]


def test_an_encoder_reads_the_text_with_its_own_tokenizer(folders, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = str(tiny_encoder(tmp_path))
    theirs, own = AutoTokenizer.from_pretrained(folders("policy", "gpt2")), AutoTokenizer.from_pretrained(path)
    batch = [tiny.said(theirs, index, question, answer) for index, (question, answer) in enumerate(DIALOGUES)]
    scores = Scores(path, folders("policy", "gpt2"), "float32", "sdpa", False)
    model = scores.load()
    items = scores.prepare(batch)
    assert own.get_vocab() != theirs.get_vocab() and scores.encoder and scores.limit == own.model_max_length
    assert 1 in items[0].fields["token_type_ids"] and len({item.tokens for item in items}) > 2  # padded together
    with torch.no_grad():
        found = scores.compute(model, items)[:, 0]
    plain = AutoModelForSequenceClassification.from_pretrained(path).eval()
    own.truncation_side, limit = "left", {"truncation": True, "max_length": own.model_max_length}
    with torch.no_grad():
        expected = torch.cat([plain(**own(*pair, **limit, return_tensors="pt")).logits[:, 0] for pair in DIALOGUES])
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    answer = own(DIALOGUES[3][1], add_special_tokens=False)["input_ids"]
    assert items[3].tokens == scores.limit and items[3].fields["input_ids"][-1 - len(answer) : -1] == answer  # the end is kept


def test_of_gemma_2_sdpa_leaves_the_cap_out(folders):
    """Why the configuration refuses it: the library says nothing, and the log-probabilities are others."""
    found = {}
    for attention in ("sdpa", "eager"):
        model = loading.load_causal(folders("policy", "gemma2"), attention=attention)
        with torch.no_grad():
            found[attention] = response_logprobs(model, pack(SAMPLES), TEMPERATURE)[0].numpy()
    assert np.abs(found["sdpa"] - found["eager"]).max() > 1e-2
