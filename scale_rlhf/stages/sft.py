"""Instruction tuning: the loss is on what the assistant says, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.supervised import SftSection
from scale_rlhf.stages.models import starting_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder

NO_LOSS = -100


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Train models/sft. Returns loss, held_out_loss and perplexity of held-out responses, samples and seconds."""
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.data.sources import held_out, sources

    start = starting_model(config, folder, "sft")
    tokenizer = load_tokenizer(start, config.model)
    dialogues = [row["messages"] for row in sources(config, folder).training_instructions()]
    out = held_out([messages[:-1] for messages in dialogues], config.data.hold_out, config.run.seed)
    parts = [[messages for messages, held in zip(dialogues, out, strict=True) if held == side] for side in (False, True)]
    return tune(config, folder, "sft", config.sft, start, tokenizer, *parts)


def tune(
    config: RunConfig, folder: RunFolder, stage: str, section: SftSection, start: str, tokenizer: PreTrainedTokenizerBase,
    dialogues: list[list[dict]], held_out: list[list[dict]],
) -> dict[str, float]:
    """Train models/STAGE on what the assistant says in `dialogues`. Returns what `train` does, and the samples."""
    from scale_rlhf.training.supervised import train

    rows, out = (labelled(part, tokenizer, section.max_tokens) for part in (dialogues, held_out))
    samples = len(rows)
    if section.packing:
        rows = packed(rows, section.max_tokens)
    measured = train("language", config, folder, stage, section=section, start=start, tokenizer=tokenizer, rows=rows,
                     held_out=out, packed=section.packing)
    return {**measured, "samples": samples}


def labelled(dialogues: Iterable[list[dict]], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Dataset[input_ids, labels]: labels are the assistant's tokens, end tokens included, and NO_LOSS everywhere else.

    Dialogues are cut after max_tokens; one in which the assistant has not begun by then is left out.
    """
    from datasets import Dataset

    from scale_rlhf.data.chat import dialogue_ids

    inputs, labels = [], []
    for messages in dialogues:
        ids, said = (part[:max_tokens] for part in dialogue_ids(tokenizer, messages))
        if any(said[1:]):  # the first token of a row is never predicted
            inputs.append(ids)
            labels.append([token if inside else NO_LOSS for token, inside in zip(ids, said, strict=True)])
    return Dataset.from_dict({"input_ids": inputs, "labels": labels})


def packed(rows: Dataset, max_tokens: int) -> Dataset:
    """Dataset[input_ids, labels, seq_lengths]: best-fit decreasing, no sample cut (TRL's `bfd`)."""
    from trl.data_utils import pack_dataset

    return pack_dataset(rows, max_tokens, "bfd")
