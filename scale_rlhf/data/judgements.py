"""Good and bad answers: rows with `prompt` or `messages`, `response` and `good`; of pairs and ratings both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import DataSource
from scale_rlhf.data.forms import preference_rows, prompt_messages
from scale_rlhf.data.rows import read_rows, shown
from scale_rlhf.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def judgements(source: DataSource, minimum_gap: float, key: str = "data.preferences") -> Dataset:
    """Dataset[messages, response: str, good: bool], each once, in the file's order. Raises DataError with file and line."""
    import datasets

    text = datasets.Value("string")
    features = {"messages": datasets.List({"role": text, "content": text}), "response": text, "good": datasets.Value("bool")}
    rows = {}
    for at, row in read_rows(source, key):
        for one in _judged(row, at, minimum_gap):
            turns = tuple((turn["role"], turn["content"]) for turn in one["messages"])
            rows.setdefault((turns, one["response"], one["good"]), one)
    if not any(one["good"] for one in rows.values()) or all(one["good"] for one in rows.values()):
        kind = "bad" if rows and next(iter(rows.values()))["good"] else "good"
        raise DataError(f"{key}: {source.path} has no {kind} answer; dpo.loss: kto learns from good and bad ones")
    return datasets.Dataset.from_list(list(rows.values()), features=datasets.Features(features))


def _judged(row: dict, at: str, minimum_gap: float) -> Iterator[dict]:
    if "good" in row:
        yield _judged_response(row, at)
        return
    for pair in preference_rows(row, at, minimum_gap):
        for side in ("chosen", "rejected"):
            yield {"messages": pair["messages"], "response": pair[side], "good": side == "chosen"}


def _judged_response(row: dict, at: str) -> dict:
    """{"messages", "response", "good"} of one row; the prompt ends with the user's turn."""
    if not isinstance(row["good"], bool):
        raise DataError(f"{at}: `good` must be true or false; found {shown(row['good'])}")
    if not isinstance(row.get("response"), str):
        raise DataError(f"{at}: `good` is of a `response`, which must be text; found {shown(row.get('response'))}")
    return {"messages": prompt_messages(row, at), "response": row["response"], "good": row["good"]}
