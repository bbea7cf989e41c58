"""What the final table shows of each model: key in evaluation/table.json, label, and how a number is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """`better`: "higher", "lower", or "" where it depends."""

    key: str
    label: str
    format: str
    better: str = ""

    def shown(self, value: float | None, interval: Sequence[float] | None = None, *, brief: bool = False) -> str:
        """The number as people read it, with its interval where there is one; a dash where it was not measured.

        brief: of the interval half its width alone, which is what a terminal has room for.
        """
        if value is None:
            return "–"
        if not interval:
            return self.format.format(value)
        if brief:
            return f"{self.format.format(value)} ±{self.format.format((interval[1] - interval[0]) / 2).rstrip('%')}"
        low_and_high = ", ".join(self.format.format(end).rstrip("%") for end in interval)
        return f"{self.format.format(value)} [{low_and_high}]"


MEASURES = (
    Measure("score", "true score (0 to 5)", "{:.2f}", "higher"),
    Measure("helpful", "helpful (0 to 1)", "{:.2f}", "higher"),
    Measure("honest", "honest (0 to 1)", "{:.2f}", "higher"),
    Measure("harmless", "harmless (0 to 1)", "{:.2f}", "higher"),
    Measure("right_form", "answers in the right form", "{:.0%}", "higher"),
    Measure("win_rate", "win rate against {anchor}", "{:.0%}", "higher"),
    Measure("reward", "reward-model score", "{:.2f}", "higher"),
    Measure("refusals_right", "rightly refused", "{:.0%}", "higher"),
    Measure("refusals_wrong", "wrongly refused", "{:.0%}", "lower"),
    Measure("unknown_right", "admits what nobody knows", "{:.0%}", "higher"),
    Measure("unknown_wrong", "claims not to know", "{:.0%}", "lower"),
    Measure("kl", "KL to {anchor}, nats a response", "{:.2f}"),
    Measure("perplexity", "perplexity on base text", "{:.2f}", "lower"),
    Measure("tokens", "response length, tokens", "{:.1f}"),
    Measure("ended", "responses that end", "{:.0%}", "higher"),
    Measure("distinct_1", "distinct words in answers", "{:.2f}"),
    Measure("distinct_2", "distinct pairs of words", "{:.2f}"),
    Measure("self_bleu", "self-BLEU", "{:.2f}"),
)
MODEL_NAMES = {"base": "base", "sft": "SFT", "best_of_n": "best of n", "dpo": "DPO", "ppo": "PPO"}


def measured(table: Mapping[str, Any], *, brief: bool = False) -> list[tuple[Measure, str, dict[str, str]]]:
    """Rows of the table: a measure, its label, and the number of each model as text. Measures that no model has are left out.

    table: what evaluation/table.json holds. brief: as Measure.shown.
    """
    anchor = model_name(table.get("anchor") or "sft")
    rows = []
    for measure in MEASURES:
        numbers = {name: values.get(measure.key) for name, values in table["models"].items()}
        if any(number is not None for number in numbers.values()):
            intervals = {name: interval_of(values, measure.key) for name, values in table["models"].items()}
            shown = {name: measure.shown(number, intervals[name], brief=brief) for name, number in numbers.items()}
            rows.append((measure, measure.label.format(anchor=anchor), shown))
    return rows


def interval_of(numbers: Mapping[str, Any], key: str) -> Sequence[float] | None:
    """[low, high] of one number of a model, where it has an interval."""
    return numbers.get("intervals", {}).get(key)


def model_name(stage: str) -> str:
    return MODEL_NAMES.get(stage, stage)


def conclusions(table: Mapping[str, Any]) -> list[str]:
    """The sentences under the table."""
    count = table["prompts"]
    lines = [
        f"{count} held-out prompts, answered at temperature {table['temperature']:g}; "
        f"wins are by {table['win_by']}, ties count half."
    ]
    if table.get("confidence"):
        lines.append(f"In brackets, or half as ±: {table['confidence']:.0%} intervals over the prompts.")
    if table.get("best_attainable") is not None:
        lines.append(f"Best attainable true score: {table['best_attainable']:.2f}.")
    if table.get("gap_closed") is not None:
        anchor = model_name(table["anchor"])
        lines.append(f"PPO closes {table['gap_closed']:.0%} of the gap between {anchor}'s true score and the best attainable.")
    if table.get("reward_ranks_right") is not None:
        lines.append(f"The reward model ranks {table['reward_ranks_right']:.0%} of {table['reward_pairs']} held-out pairs "
                     "as their true quality does.")
    known = [(model_name(name), values.get("perplexity")) for name, values in table["models"].items()]
    perplexities = [f"{name} {number:.2f}" for name, number in known if number is not None]
    if len(perplexities) > 1:
        lines.append(f"Alignment tax, perplexity on base text: {', '.join(perplexities)}.")
    return [*lines, *table.get("remarks", []), *(f"Warning: {warning}" for warning in table.get("warnings", []))]
