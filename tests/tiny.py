"""Tiny random models, tokenizers and samples for tests: Hugging Face folders in the shape of Qwen3."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scale_rlhf.experience.sample import Prompt, Sample

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]  # ids 0 to 3
PAD, END = 0, 1
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = [
    "What is the capital of France?", "What is the capital of Bolivia?", "The capital of France is Paris.",
    "Tell me how to apply for a job.", "Help me brainstorm some fun museums to visit in Bogotá.", "I do not know that place.",
]


def tiny_tokenizer(folder: Path, *, vocabulary: int = 320) -> Path:
    """Byte-level BPE trained on a few lines, with the four special tokens and a chat template. Returns the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>", extra_special_tokens=SPECIAL[2:], chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tiny_policy(
    folder: Path, *, vocabulary: int = 320, tied: bool = True, seed: int = 0, hidden: int = 64, layers: int = 2,
    tokenizer: bool = True,
) -> Path:
    """A causal language model with random weights, large enough that its distribution is far from uniform."""
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(tiny_config(vocabulary, tied, hidden, layers))
    return _save(model, folder, vocabulary if tokenizer else None)


def tiny_classifier(
    folder: Path, *, vocabulary: int = 320, tied: bool = True, seed: int = 1, hidden: int = 64, layers: int = 2,
    tokenizer: bool = True, labels: Sequence[str] = (),
) -> Path:
    """A sequence-classification model with random weights: a reward model (labels: its aspects), or a value model's start."""
    from transformers import Qwen3ForSequenceClassification

    torch.manual_seed(seed)
    config = tiny_config(vocabulary, tied, hidden, layers)
    config.num_labels = len(labels) or 1
    if labels:
        config.id2label, config.problem_type = dict(enumerate(labels)), "regression"
    return _save(Qwen3ForSequenceClassification(config), folder, vocabulary if tokenizer else None)


def tiny_config(vocabulary: int = 320, tied: bool = True, hidden: int = 64, layers: int = 2):
    """Qwen3 with heads of 32, which vLLM's CPU backend has a kernel for."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, tie_word_embeddings=tied, initializer_range=0.1,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )


def samples(
    count: int, seed: int = 0, vocabulary: int = 320, *, prompt: tuple[int, int] = (2, 12), response: tuple[int, int] = (1, 16),
    version: int = 0, first: int = 0,
) -> list[Sample]:
    """Samples of random tokens and random log-probabilities, with indices from `first`; lengths are uniform in [low, high]."""
    random = np.random.default_rng(seed)
    return [_sample(first + place, random, vocabulary, prompt, response, version) for place in range(count)]


def padded(samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples' tokens as rows padded on the right, and the mask of what is no padding: int64 [samples, longest]."""
    longest = max(sample.tokens for sample in samples)
    ids, mask = torch.full((len(samples), longest), PAD), torch.zeros(len(samples), longest, dtype=torch.long)
    for row, sample in enumerate(samples):
        ids[row, : sample.tokens] = torch.tensor([*sample.prompt.token_ids, *sample.response_ids])
        mask[row, : sample.tokens] = 1
    return ids, mask


def said(tokenizer, index: int, question: str, answer: str) -> Sample:
    """A sample of one turn in which this was asked and answered, in that tokenizer's tokens."""
    messages = [{"role": "user", "content": question}]
    prompt = np.array(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False), np.int32)
    response = np.array([*tokenizer.encode(answer), tokenizer.eos_token_id], np.int32)
    zeros = np.zeros(len(response))
    return Sample(Prompt(index, index, prompt, {"messages": messages}), response, zeros.astype(np.float32),
                  zeros.astype(np.int32), True)


def _sample(index, random, vocabulary, prompt, response, version) -> Sample:
    prompt_length, length = random.integers(prompt[0], prompt[1] + 1), random.integers(response[0], response[1] + 1)
    response_ids = random.integers(len(SPECIAL), vocabulary, length).astype(np.int32)
    ended = bool(random.random() < 0.7)
    if ended:
        response_ids[-1] = END
    return Sample(
        Prompt(index, index, random.integers(len(SPECIAL), vocabulary, prompt_length).astype(np.int32)),
        response_ids, random.normal(-3.0, 0.5, length).astype(np.float32), np.full(length, version, np.int32), ended,
    )


def _save(model, folder: Path, vocabulary: int | None) -> Path:
    model.generation_config = None if not hasattr(model, "lm_head") else model.generation_config
    model.save_pretrained(folder, safe_serialization=True)
    if vocabulary:
        tiny_tokenizer(folder, vocabulary=vocabulary)
    return Path(folder)
