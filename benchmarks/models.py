"""Models to measure with: Qwen3's shape, random weights, a tokenizer beside them; and prompts and lengths in a natural mix."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# (hidden, layers, heads, key-value heads, intermediate, vocabulary); heads of 64, tied embeddings.
SHAPES = {
    "3M": (256, 4, 4, 2, 704, 1024),
    "10M": (320, 6, 5, 5, 1024, 4096),
    "50M": (512, 12, 8, 4, 1792, 16384),
    "100M": (768, 12, 12, 6, 2048, 32768),
    "400M": (1024, 24, 16, 8, 3840, 49152),
}
TRAINED = ("3M", "50M")
TEXT = ["What is the capital of France?", "The capital of France is Paris.", "Tell me how to apply for a job.",
        "Which museums in Bogotá would you show to a friend?", "I do not know that place."]
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]  # ids 0 to 3


def make(folder: Path, size: str, seed: int = 0) -> Path:
    """Write a causal language model of that size with its tokenizer. Returns the folder."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(configuration(size))
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def make_classifier(folder: Path, size: str, seed: int = 1) -> Path:
    """A reward model of that size: one score a sequence."""
    import torch
    from transformers import Qwen3ForSequenceClassification

    torch.manual_seed(seed)
    shape = configuration(size)
    shape.num_labels = 1
    Qwen3ForSequenceClassification(shape).save_pretrained(folder)
    tokenizer(folder)
    return folder


def configuration(size: str) -> Any:
    """The transformers configuration of a size in SHAPES."""
    from transformers import Qwen3Config

    hidden, layers, heads, pairs, intermediate, vocabulary = SHAPES[size]
    return Qwen3Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=pairs, head_dim=64,
        intermediate_size=intermediate, vocab_size=vocabulary, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, dtype="float32",
    )


def tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of some 300 tokens; a model's other tokens have no text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=SPECIAL[0], eos_token=SPECIAL[1]).save_pretrained(folder)


@contextlib.contextmanager
def made(size: str, seed: int = 0) -> Iterator[str]:
    """A model in a temporary folder, which is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="scale-rlhf-bench-"))
    try:
        yield str(make(folder, size, seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def digits(count: int, tokens: int, seed: int = 0) -> list[str]:
    """Prompts as text that are exactly so many tokens: the tokenizer has merged no digits."""
    random = np.random.default_rng(seed)
    return ["".join(map(str, random.integers(0, 10, tokens))) for _ in range(count)]


def parameters(size: str) -> int:
    """How many the model has, tied ones once."""
    hidden, _, _, _, _, vocabulary = SHAPES[size]
    return matrix_parameters(size) + vocabulary * hidden


def matrix_parameters(size: str) -> int:
    """Elements of the blocks' matrices: what each token is multiplied with, but for the output head."""
    hidden, layers, heads, pairs, intermediate, _ = SHAPES[size]
    return layers * (2 * 64 * hidden * (heads + pairs) + 3 * hidden * intermediate)


def lengths(count: int, *, median: float, sigma: float, low: int, high: int, seed: int) -> list[int]:
    """Long-tailed: log-normal with that median (tokens), cut to [low, high]."""
    drawn = np.random.default_rng(seed).lognormal(np.log(median), sigma, count)
    return [int(length) for length in np.clip(np.rint(drawn), low, high)]


def prompts(count: int, size: str, *, low: int, high: int, seed: int) -> list[list[int]]:
    """Random tokens, no special ones; lengths are uniform in [low, high]."""
    random, vocabulary = np.random.default_rng(seed), SHAPES[size][-1]
    return [random.integers(len(SPECIAL), vocabulary, random.integers(low, high + 1)).tolist() for _ in range(count)]
