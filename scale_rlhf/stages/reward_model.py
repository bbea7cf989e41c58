"""The reward model: one score a response, learned from pairs (Bradley and Terry), with the raters' margin (Llama 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.stages.models import starting_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Train models/reward. Returns loss; accuracy, calibration_error and pairs of the held-out pairs; seconds."""
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.data.sources import sources
    from scale_rlhf.training.supervised import train

    section = config.reward_model
    start = starting_model(config, folder, "reward_model")
    tokenizer = load_tokenizer(start, config.model)
    parts = sources(config, folder).preference_split()
    rows = [pairs(part, tokenizer, section.max_tokens, section.margin) for part in parts]
    return train("reward", config, folder, "reward", section=section, start=start, tokenizer=tokenizer, rows=rows[0],
                 held_out=rows[1])


def pairs(preferences: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_tokens: int, margin: bool) -> Dataset:
    """Dataset[chosen_ids, rejected_ids, margin]. Longer dialogues lose their beginning: the score is read at the end.

    preferences: rows {"messages", "chosen", "rejected", "margin"}. The margin is 0 where it is not asked for or there is none.
    """
    from datasets import Dataset, Features, List, Value

    from scale_rlhf.data.chat import dialogue_ids

    columns = {"chosen_ids": [], "rejected_ids": [], "margin": []}
    for row in preferences:
        for side in ("chosen", "rejected"):
            ids, _ = dialogue_ids(tokenizer, [*row["messages"], {"role": "assistant", "content": row[side]}])
            columns[f"{side}_ids"].append(ids[-max_tokens:])
        columns["margin"].append(float(row["margin"] or 0.0) if margin else 0.0)
    features = Features({"chosen_ids": List(Value("int64")), "rejected_ids": List(Value("int64")), "margin": Value("float64")})
    return Dataset.from_dict(columns, features=features)
