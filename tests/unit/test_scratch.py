import pytest
import torch

from scale_rlhf.config.schema import ScratchSection
from scale_rlhf.data.chat import check_tokenizer, prompt_ids
from scale_rlhf.errors import DataError
from scale_rlhf.models.scratch import scratch_config, scratch_model, train_tokenizer

TEXT = ["What is the capital of France?", "What is the capital of Bolivia?", "Help me brainstorm museums in Bogotá."] * 20
SMALL = ScratchSection(
    vocabulary=300, hidden_size=32, layers=1, heads=2, key_value_heads=1, head_dim=16, intermediate_size=48, context=64,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXT, SMALL)


def test_any_text_survives(tokenizer):
    for text in ("Bogotá, 北京 and \U0001f600", "  two  spaces\n\ttab", TEXT[0]):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_vocabulary_is_what_was_asked_for(tokenizer):
    assert len(tokenizer) == SMALL.vocabulary
    assert len(tokenizer(TEXT[0])["input_ids"]) < len(TEXT[0]) / 2  # pairs were merged


def test_special_tokens(tokenizer):
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id] == [0, 1]
    assert check_tokenizer(tokenizer, "x").pad_token_id == 0
    assert prompt_ids(tokenizer, "a")[0] == 2 and prompt_ids(tokenizer, "a")[-1] == 3


def test_no_text_is_an_error():
    with pytest.raises(DataError, match="data.base_text"):
        train_tokenizer(["  "], SMALL)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.chat_template == tokenizer.chat_template
    assert (again.pad_token, again.eos_token) == (tokenizer.pad_token, tokenizer.eos_token)


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_has_the_sizes_of_the_section(tokenizer, tied):
    section = SMALL.model_copy(update={"tied_embeddings": tied})
    config = scratch_config(section, tokenizer)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.head_dim) == (300, 32, 1, 16)
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (2, 1, 48)
    assert config.max_position_embeddings == 64 and (config.pad_token_id, config.eos_token_id) == (0, 1)
    model = scratch_model(section, tokenizer, seed=0)
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) is tied


def test_weights_follow_from_the_seed(tokenizer):
    first, again, other = (scratch_model(SMALL, tokenizer, seed).lm_head.weight for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_attention_kernel_is_the_one_that_was_asked_for_and_changes_no_weight(tokenizer, tmp_path):
    plain, eager = scratch_model(SMALL, tokenizer, 3), scratch_model(SMALL, tokenizer, 3, "eager")
    assert (plain.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), eager.parameters(), strict=True))
    eager.save_pretrained(tmp_path)
    assert "eager" not in (tmp_path / "config.json").read_text()
