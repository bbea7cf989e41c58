"""What the final table says beside the held-out prompts' own numbers: further judges and further prompt sets, as rows of text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scale_rlhf.telemetry.measures import MEASURES, Measure, interval_of, model_name

HELD_OUT = "held-out"
RIGHT = Measure("right", "right answers", "{:.0%}", "higher")
SCORE = Measure("score", "score", "{:.2f}", "higher")
WIN_RATE = Measure("win_rate", "win rate", "{:.0%}", "higher")
BEHAVIOUR = tuple(measure for measure in MEASURES if measure.key.startswith(("refusals_", "unknown_")))


@dataclass(frozen=True)
class Row:
    """One measure of every model on one set of prompts. numbers: by model, as people read them, dashes included."""

    prompts: str
    label: str
    numbers: dict[str, str]


def further(table: Mapping[str, Any]) -> list[Row]:
    """Rows, set after set: what is verified, how models behave, and what each judge says. [] where there is nothing further."""
    names = list(table["models"])
    rows: list[Row] = []
    for key, found in table.get("prompt_sets", {}).items():
        prompts = HELD_OUT if key == "held_out" else key
        if key != "held_out":  # whose behaviour is in the table itself
            rows += [_row(names, prompts, measure.label, measure, found["models"]) for measure in (RIGHT, *BEHAVIOUR)]
        for judge, said in found["judges"].items():
            rows += _of_judge(names, prompts, judge, said, model_name(table["anchor"]))
    return [row for row in rows if set(row.numbers.values()) != {"–"}]


def _of_judge(names: list[str], prompts: str, judge: str, said: Mapping[str, Any], anchor: str) -> Iterator[Row]:
    yield _row(names, prompts, f"{judge}: score", SCORE, said["models"])
    for aspect in dict.fromkeys(aspect for one in said["models"].values() for aspect in one.get("aspects", {})):
        measure = Measure(aspect, aspect, "{:.2f}", "higher")
        means = {name: one.get("aspects", {}) for name, one in said["models"].items()}
        yield _row(names, prompts, f"{judge}: {aspect}", measure, means)
    yield _row(names, prompts, f"{judge}: win rate against {anchor}", WIN_RATE, said["models"])


def _row(names: list[str], prompts: str, label: str, measure: Measure, models: Mapping[str, Any]) -> Row:
    there = {name: models.get(name, {}) for name in names}
    shown = {name: measure.shown(values.get(measure.key), interval_of(values, measure.key)) for name, values in there.items()}
    return Row(prompts, label, shown)
