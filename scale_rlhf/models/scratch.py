"""A small model from nothing: a byte-level BPE tokenizer trained on the base text, and random weights in Qwen3's shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import ScratchSection
from scale_rlhf.data.chat import END, PAD, SCRATCH_TEMPLATE, SPECIAL_TOKENS
from scale_rlhf.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


def train_tokenizer(texts: Iterable[str], scratch: ScratchSection, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `scratch.vocabulary` tokens, with the four special tokens first (pad 0, end 1, user 2, assistant 3).

    Any text can be written in it, since all 256 bytes are tokens. Fewer tokens come out where the text has too few
    repeated pairs. Raises DataError where there is no text at all.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError("data.base_text: the tokenizer of a scratch model is trained on the base text, and it is empty")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=scratch.vocabulary, special_tokens=SPECIAL_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, extra_special_tokens=SPECIAL_TOKENS[2:],
        chat_template=chat_template or SCRATCH_TEMPLATE, model_max_length=scratch.context, clean_up_tokenization_spaces=False,
    )


def scratch_config(scratch: ScratchSection, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """Qwen3's configuration at the sizes of `scratch`, for that tokenizer. Embeddings have the tokenizer's size."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=scratch.hidden_size, intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers, num_attention_heads=scratch.heads, num_key_value_heads=scratch.key_value_heads,
        head_dim=scratch.head_dim, max_position_embeddings=scratch.context, tie_word_embeddings=scratch.tied_embeddings,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, use_cache=True,
    )


def scratch_model(
    scratch: ScratchSection, tokenizer: PreTrainedTokenizerFast, seed: int, attention: str = "sdpa",
) -> Qwen3ForCausalLM:
    """The model with random float32 weights drawn from `seed`: the same on every rank. attention: as model.attention."""
    import torch
    from transformers import Qwen3ForCausalLM

    config = scratch_config(scratch, tokenizer)
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)
