"""The base model: a tokenizer and a small model from nothing, by language modelling on packed text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder

HELD_OUT_TEXT = "base_heldout.jsonl"  # the practice world's


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Train models/base. Returns loss, perplexity on held-out text, parameters and seconds.

    Runs only where model.path is null; a base.model is trained further on the base text, with its own tokenizer.
    """
    from scale_rlhf.training.supervised import train

    if config.model.path is not None:
        raise ConfigError(f"run.stages: the stage `base` makes a model from scratch, and model.path names one "
                          f"({config.model.path}); leave `base` out of run.stages, or set model.path to null")
    text, held_out = texts(config, folder)
    tokenizer = _tokenizer(config, text)
    rows = [pack_text(part, tokenizer, config.base.max_tokens) for part in (text, held_out)]
    return train("language", config, folder, "base", section=config.base, start=config.base.model, tokenizer=tokenizer,
                 rows=rows[0], held_out=rows[1])


def pack_text(lines: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Lines, one below the other, cut into rows of `max_tokens`: Dataset[input_ids, labels], the last row shorter.

    Text flows over the borders of lines and of rows, as base text is meant to: a list of questions goes on.
    """
    from datasets import Dataset

    encoded = tokenizer([line + "\n" for line in lines], add_special_tokens=False, verbose=False) if lines else {"input_ids": []}
    stream = [token for ids in encoded["input_ids"] for token in ids]
    rows = [stream[start : start + max_tokens] for start in range(0, len(stream), max_tokens)]
    rows = [row for row in rows if len(row) > 1]  # a single token predicts nothing
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def texts(config: RunConfig, folder: RunFolder) -> tuple[list[str], list[str]]:
    """Lines to train on, and lines held out: the practice world's own, else the last share `data.hold_out`."""
    from scale_rlhf.config.schema import DataSource
    from scale_rlhf.data.read import base_text
    from scale_rlhf.data.sources import sources

    lines = sources(config, folder).training_text()["text"][:]
    practice = Path(folder.data) / HELD_OUT_TEXT
    if config.data.practice and config.data.base_text is None and practice.exists():
        return lines, base_text(DataSource(path=str(practice)))["text"][:]
    kept = len(lines) - round(config.data.hold_out * len(lines))
    if kept == 0:
        raise DataError("data.base_text: no text is left to train on")
    return lines[:kept], lines[kept:]


def _tokenizer(config: RunConfig, text: list[str]) -> PreTrainedTokenizerBase:
    from scale_rlhf.data.chat import check_tokenizer, load_tokenizer
    from scale_rlhf.models.scratch import train_tokenizer

    if config.base.model:
        return load_tokenizer(config.base.model, config.model)
    template = Path(config.model.chat_template).read_text() if config.model.chat_template else None
    return check_tokenizer(train_tokenizer(text, config.model.scratch, template), "the scratch model")
