"""The reward model's part of report.html: how well it ranks what it never saw, how well it is calibrated, what length does."""

from collections.abc import Mapping
from html import escape

from scale_rlhf.telemetry.charts import figure
from scale_rlhf.telemetry.svg import Series, line_chart

_AXES = {
    **dict.fromkeys(("pairs", "comparisons", "rankings"), "predicted chance of the likelier response"),
    "binary": "predicted chance of good", "ratings": "predicted rating",
}
_COLUMNS = {
    "pairs": "held-out pairs", "accuracy": "ranked right", "judged_right": "judged right",
    "calibration_error": "calibration error", "length_correlation": "score against length, r",
    "longer_is_scored_higher": "longer scored higher", "longer_is_rated_higher": "longer rated higher",
}


def reward_section(quality: Mapping) -> str:
    """HTML of a run's reward/quality.json; "" where there is none."""
    if not quality:
        return ""
    aspects: Mapping[str, Mapping] = quality["aspects"]
    shown = {key: label for key, label in _COLUMNS.items() if any(key in one for one in aspects.values())}
    head = "".join(f'<th class="number">{escape(label)}</th>' for label in shown.values())
    rows = "".join(
        f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="number">{_number(one.get(key))}</td>' for key in shown) + "</tr>"
        for name, one in aspects.items()
    )
    table = f'<div class="sheet"><table><tr><th></th>{head}</tr>{rows}</table></div>'
    curves = {name: one["calibration"] for name, one in aspects.items() if one.get("calibration")}
    chart = f'<div class="charts">{_curve(curves, quality["feedback"])}</div>' if curves else ""
    return f"<h2>Reward model on held-out responses</h2>{table}{chart}"


def _curve(curves: Mapping[str, list[Mapping]], feedback: str) -> str:
    places = sorted(point["predicted"] for curve in curves.values() for point in curve)
    ideal = Series("as predicted", [(places[0], places[0]), (places[-1], places[-1])])
    series = [Series(name, sorted((point["predicted"], point["seen"]) for point in curve)) for name, curve in curves.items()]
    picture = line_chart([*series, ideal], x_label=_AXES[feedback])
    note = "What was seen, against what was predicted. Above the straight line the model is less sure than it may be."
    return figure("Calibration", picture, [*curves, ideal.name], note)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
