"""Good and bad answers: rows that judge one response; of pairs, ratings and rankings both sides of every pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import DataSource
from scale_rlhf.data.forms import is_judged, judged_response, preference_rows
from scale_rlhf.data.rows import read_rows
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
    if is_judged(row) or ("good" in row and not {"chosen", "rejected", "responses"} & row.keys()):
        yield judged_response(row, at)
        return
    for pair in preference_rows(row, at, minimum_gap):
        for side in ("chosen", "rejected"):
            yield {"messages": pair["messages"], "response": pair[side], "good": side == "chosen"}
