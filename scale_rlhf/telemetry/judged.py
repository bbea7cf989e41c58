"""What the final table says beside the held-out prompts' own numbers: further judges and further prompt sets, as rows of text."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from scale_rlhf.telemetry.measures import MEASURES, Measure, interval_of

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


def further(table: Mapping[str, Any], *, brief: bool = False) -> list[Row]:
    """Rows, set after set: what is verified, how models behave, and what each judge says. [] where there is nothing further."""
    row = partial(_row, list(table["models"]), brief)
    rows: list[Row] = []
    for key, found in table.get("prompt_sets", {}).items():
        prompts = HELD_OUT if key == "held_out" else key
        if key != "held_out":  # whose behaviour is in the table itself
            rows += [row(prompts, measure.label, measure, found["models"]) for measure in (RIGHT, *BEHAVIOUR)]
        for judge, said in found["judges"].items():
            rows += _of_judge(row, prompts, judge, said)
    return [one for one in rows if set(one.numbers.values()) != {"–"}]


def _of_judge(row: Callable[..., Row], prompts: str, judge: str, said: Mapping[str, Any]) -> Iterator[Row]:
    yield row(prompts, f"{judge}: score", SCORE, said["models"])
    for aspect in dict.fromkeys(aspect for one in said["models"].values() for aspect in one.get("aspects", {})):
        measure = Measure(aspect, aspect, "{:.2f}", "higher")
        means = {name: one.get("aspects", {}) for name, one in said["models"].items()}
        yield row(prompts, f"{judge}: {aspect}", measure, means)
    yield row(prompts, f"{judge}: win rate", WIN_RATE, said["models"])


def _row(names: list[str], brief: bool, prompts: str, label: str, measure: Measure, models: Mapping[str, Any]) -> Row:
    numbers = {}
    for name in names:
        values = models.get(name, {})
        numbers[name] = measure.shown(values.get(measure.key), interval_of(values, measure.key), brief=brief)
    return Row(prompts, label, numbers)
