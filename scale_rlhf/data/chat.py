"""From messages to tokens: chat templates, the tokens that a loss is taken on, and the checks a tokenizer must pass.

A tokenizer is right for training when it has a chat template, when the assistant's turn ends with the end token
(or the model never learns to stop), and when padding is another token than the end (or the end is masked away).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scale_rlhf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.config.schema import ModelSection

Messages = Sequence[dict[str, str]]

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, END, USER, ASSISTANT]
SCRATCH_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_PAD_NAMES = ["<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>", "<|endoftext|>"]
_SPARE_NAMES = re.compile(r"reserved|unused|extra_id|vision_pad|fim_pad", re.IGNORECASE)


def load_tokenizer(path: str, model: ModelSection) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, with `model.chat_template` if one is given, checked and mended."""
    from transformers import AutoTokenizer

    from scale_rlhf.models.loading import offline_if_local

    with offline_if_local(path):
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=model.trust_remote_code)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: no tokenizer could be read there: {error}") from error
    if model.chat_template:
        file = Path(model.chat_template)
        if not file.is_file():
            raise ConfigError(f"model.chat_template: expected a file with a Jinja template, found nothing at {file}")
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    return check_tokenizer(tokenizer, path)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> PreTrainedTokenizerBase:
    """The same tokenizer, with an end token that ends the assistant's turn and a padding token of its own.

    where: its folder or hub name, for messages. A pad token that is missing or equal to the end token is replaced
    by a token that is in the vocabulary and otherwise unused; an end token that the template does not use, by the
    one that it does (Qwen's base models end a text and a turn differently). Raises ConfigError where there is no
    chat template, no end token, or no token to pad with.
    """
    if not tokenizer.chat_template:
        raise ConfigError(f"{where}: the tokenizer has no chat template; give a file with one as model.chat_template")
    tokenizer.eos_token = _end_of_turn(tokenizer, where)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer, where)
    return tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages | str) -> list[int]:
    """Tokens of a prompt as the model sees it before it answers; a string is one user's turn."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)


def plain_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Tokens of a prompt as lines of text, as base text has them: for a model that knows of no chat."""
    return tokenizer("\n".join(turn["content"] for turn in messages) + "\n", add_special_tokens=False)["input_ids"]


def dialogue_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[list[int], list[bool]]:
    """Tokens of a dialogue, and which of them the assistant said, each turn's end token included: both [tokens].

    Templates with {% generation %} markers say it themselves; for any other the dialogue is rendered up to each
    assistant's turn (with the generation prompt) and through it, and what was added is the assistant's. What a
    template writes after the last end token (Qwen's a line break) is left out: a model that answers stops there.
    """
    messages = list(messages)
    if re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.chat_template):
        encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = list(encoded["input_ids"]), encoded["assistant_masks"]
    else:
        ids, mask = _by_prefixes(tokenizer, messages)
    said = _through_end_token(ids, mask, tokenizer.eos_token_id)
    if messages[-1]["role"] == "assistant" and any(said):
        last = max(i for i, inside in enumerate(said) if inside)
        ids, said = ids[: last + 1], said[: last + 1]
    return ids, said


def _through_end_token(ids: list[int], mask: Sequence[int], end: int) -> list[bool]:
    """The mask with every turn running through its end token and no further."""
    said, ended = [], False
    for i, (token, inside) in enumerate(zip(ids, mask, strict=True)):
        if not inside:
            closes = token == end and i > 0 and said[i - 1] and not ended
            said.append(closes)
            ended = closes
        else:
            said.append(not ended)
            ended = ended or token == end
    return said


def _by_prefixes(tokenizer: PreTrainedTokenizerBase, messages: list) -> tuple[list[int], list[bool]]:
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    mask = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            through = tokenizer.apply_chat_template(messages[: turn + 1], tokenize=True, return_dict=False)
            start, stop = (_common(ids, part) for part in (prompt_ids(tokenizer, messages[:turn]), through))
            mask[start:stop] = [True] * (stop - start)
    return ids, mask


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """The special token that ends an assistant's turn in the template: the end token, or the one used in its place."""
    try:
        rendered = tokenizer.apply_chat_template(_PROBE, tokenize=True, return_dict=False)
        before = tokenizer.apply_chat_template(_PROBE[:1], add_generation_prompt=True, tokenize=True, return_dict=False)
    except Exception as error:  # a template is a program: it may fail in any way
        raise ConfigError(f"{where}: the chat template cannot render a user's and an assistant's turn: {error}") from error
    tail = rendered[_common(rendered, before) :]
    if tokenizer.eos_token_id in tail:
        return tokenizer.eos_token
    special = [token for token in tail if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder]
    if not special:
        found = f"the end token is {tokenizer.eos_token!r}" if tokenizer.eos_token else "the tokenizer has no end token"
        raise ConfigError(f"{where}: the chat template puts no end token after the assistant's turn ({found}), so a model would "
                          "never learn to stop; write the end token after the assistant's content in a template of your own "
                          "and name it as model.chat_template")
    return tokenizer.convert_ids_to_tokens(special[0])


def _spare_token(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """A token of the vocabulary to pad with: no new one, so that embeddings keep their size."""
    vocabulary = tokenizer.get_vocab()
    added = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    spare = [name for name in _PAD_NAMES if name in vocabulary] + [name for name in added if _SPARE_NAMES.search(name)]
    spare = [name for name in spare if name != tokenizer.eos_token]
    if not spare:
        raise ConfigError(f"{where}: the tokenizer has no padding token besides its end token {tokenizer.eos_token!r} and no "
                          "unused token to take for it; set pad_token in the model folder's tokenizer_config.json to a token "
                          "that texts do not use")
    return spare[0]
