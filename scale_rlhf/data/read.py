"""Readers of what the stages use: JSON, JSONL, Parquet, CSV or a hub name in, one normal form out.

Whatever is wrong with a file is a DataError that names the file and the line. `datasets` is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import DataSource
from scale_rlhf.data.forms import (
    instruction_messages,
    is_bad,
    is_judged,
    judged_response,
    pairs_from_judgements,
    pairs_from_ratings,
    preference_rows,
    prompt_messages,
    text_of,
)
from scale_rlhf.data.rows import Located, read_rows
from scale_rlhf.errors import DataError

if TYPE_CHECKING:
    import datasets

__all__ = ["base_text", "instructions", "pairs_from_ratings", "preferences", "prompts"]


def base_text(source: DataSource, key: str = "data.base_text") -> datasets.Dataset:
    """Dataset[text: str]: the column `text`, or the turns of instructions, one below the other."""
    rows = ({"text": text_of(row, at)} for at, row in _to_learn(source, key))
    return _dataset(rows, {"text": _string()})


def instructions(source: DataSource, key: str = "data.instructions") -> datasets.Dataset:
    """Dataset[messages], each ending with the assistant's turn.

    Rows have `prompt` and `response`, or `messages`; of preferences the chosen (or best rated, or first ranked) answer is
    taken. A response that is judged bad is left out, here and from the base text.
    """
    rows = ({"messages": instruction_messages(row, at)} for at, row in _to_learn(source, key))
    return _dataset(rows, {"messages": _messages()})


def preferences(source: DataSource, minimum_gap: float = 0.5, key: str = "data.preferences") -> datasets.Dataset:
    """Dataset[messages, chosen: str, rejected: str, margin: float | None]: the prompt's messages and two answers.

    Rows are of any form that says which response is better (docs/data.md): `chosen` and `rejected`; `responses` and
    `ratings`, of which every pair whose means differ by at least `minimum_gap` is taken, the difference being the margin;
    `responses` and their ranks; `response` and `good`, of which every good one is paired with every bad one to its prompt.
    """
    rows, judged = [], []
    for at, row in read_rows(source, key):
        if is_judged(row):
            judged.append(judged_response(row, at))
        else:
            rows += preference_rows(row, at, minimum_gap)
    rows += pairs_from_judgements(judged)
    if not rows:
        raise DataError(f"{source.path}: no two responses to one prompt differ, be it by {minimum_gap} in their mean rating "
                        "(lower reward_model.minimum_gap), in rank, or in being good")
    return _dataset(rows, {"messages": _messages(), "chosen": _string(), "rejected": _string(), "margin": _number()})


def prompts(source: DataSource, key: str = "data.prompts") -> list[dict]:
    """Rows {"messages": […, the user's turn], "_at": "FILE:LINE", **the file's other columns}, in the file's order.

    Rows have `prompt` or `messages`; of preferences what comes before the answers is taken. The other columns reach
    reward functions; `_at` is where the row came from.
    """
    kept = []
    for at, row in read_rows(source, key):
        messages = prompt_messages(row, at)
        others = {name: value for name, value in row.items() if name not in ("messages", "prompt")}
        kept.append({**others, "messages": messages, "_at": at})
    return kept


def answered(source: DataSource, key: str = "data.instructions") -> list[dict]:
    """Rows {"messages": […, the assistant's turn], "_at": "FILE:LINE", **the file's other columns}, in the file's order."""
    return [{**{name: value for name, value in row.items() if name not in ("messages", "prompt")},
             "messages": instruction_messages(row, at), "_at": at} for at, row in _to_learn(source, key)]


def _to_learn(source: DataSource, key: str) -> Iterator[Located]:
    """All rows but those whose one response is judged bad."""
    none = True
    for at, row in read_rows(source, key):
        if not is_bad(row, at):
            none = False
            yield at, row
    if none:
        raise DataError(f"{source.path}: every response there is judged bad; expected at least one to learn")


def _dataset(rows: Iterable[dict], features: dict) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_list(list(rows), features=datasets.Features(features))


def _string():
    import datasets

    return datasets.Value("string")


def _number():
    import datasets

    return datasets.Value("float64")


def _messages():
    import datasets

    return datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})
