"""The reward model: a score of a response, or one an aspect, learned from pairs, comparisons, ratings, rankings, or good and bad.

pairs      Bradley and Terry, with the raters' margin (Llama 2): TRL's reward trainer
the others algorithms/preference.py: training/judged_trainer.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration.run_folder import write_atomically
from scale_rlhf.stages.models import starting_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder

QUALITY_FILE = "quality.json"


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Train models/reward. Returns loss; accuracy, calibration_error, length_correlation and pairs of what was held out; seconds.

    Leaves reward/quality.json: the same by aspect, with the calibration curves.
    """
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.data.feedback import of_pair
    from scale_rlhf.data.sources import sources
    from scale_rlhf.training.supervised import train

    section, found = config.reward_model, sources(config, folder)
    start = starting_model(config, folder, "reward_model")
    tokenizer = load_tokenizer(start, config.model)
    if section.feedback == "pairs":
        learned, kept = found.preference_split()
        kind, rows, kept = "reward", pairs(learned, tokenizer, section.max_tokens, section.margin), map(of_pair, kept)
    else:
        learned, kept = found.feedback_split(section)
        kind, rows = "judged", judged(learned, tokenizer, section.max_tokens, alone=section.feedback in ("ratings", "binary"))
    said = train(kind, config, folder, "reward", section=section, start=start, tokenizer=tokenizer, rows=rows,
                 held_out=judged(kept, tokenizer, section.max_tokens))
    if report := said.pop("report", None):
        write_atomically(folder.stage("reward") / QUALITY_FILE, json.dumps(report, indent=2) + "\n")
    return said


def pairs(preferences: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_tokens: int, margin: bool) -> Dataset:
    """Dataset[chosen_ids, rejected_ids, margin]. Longer dialogues lose their beginning: the score is read at the end.

    preferences: rows {"messages", "chosen", "rejected", "margin"}. The margin is 0 where it is not asked for or there is none.
    """
    from datasets import Dataset, Features, List, Value

    columns = {"chosen_ids": [], "rejected_ids": [], "margin": []}
    messages, known = None, {}
    for row in preferences:
        if row["messages"] != messages:  # responses to one prompt are compared with one another, and stand together
            messages, known = row["messages"], {}
        for side in ("chosen", "rejected"):
            if row[side] not in known:
                known[row[side]] = _ids(tokenizer, messages, row[side])[-max_tokens:]
            columns[f"{side}_ids"].append(known[row[side]])
        columns["margin"].append(float(row["margin"] or 0.0) if margin else 0.0)
    features = Features({"chosen_ids": List(Value("int64")), "rejected_ids": List(Value("int64")), "margin": Value("float64")})
    return Dataset.from_dict(columns, features=features)


def judged(
    judgements: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, alone: bool = False,
) -> Dataset:
    """Dataset[texts: K token lists, targets: [aspects][K], lengths: K token counts of the responses]; too long ones as `pairs`.

    judgements: rows of data/feedback.py. alone: each judged response becomes a row, for losses that compare none.
    """
    from datasets import Dataset, Features, List, Value

    from scale_rlhf.data.chat import prompt_ids

    columns = {"texts": [], "targets": [], "lengths": []}
    for row in judgements:
        before = len(prompt_ids(tokenizer, row["messages"]))
        whole = [_ids(tokenizer, row["messages"], response) for response in row["responses"]]
        for places in [[place] for place in range(len(whole))] if alone else [range(len(whole))]:
            targets = [[aspect[place] for place in places] for aspect in row["targets"]]
            if any(target == target for aspect in targets for target in aspect):  # NaN: nobody judged it
                columns["texts"].append([whole[place][-max_tokens:] for place in places])
                columns["targets"].append(targets)
                columns["lengths"].append([len(whole[place]) - before for place in places])
    whole_number = Value("int64")
    features = {"texts": List(List(whole_number)), "targets": List(List(Value("float64"))), "lengths": List(whole_number)}
    return Dataset.from_dict(columns, features=Features(features))


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], response: str) -> list[int]:
    from scale_rlhf.data.chat import dialogue_ids

    return dialogue_ids(tokenizer, [*messages, {"role": "assistant", "content": response}])[0]
