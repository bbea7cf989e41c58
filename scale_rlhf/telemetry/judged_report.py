"""The part of report.html on judges and prompt sets: wins, right answers and behaviour with their intervals."""

from collections.abc import Mapping
from html import escape
from typing import Any

from scale_rlhf.telemetry.charts import figure
from scale_rlhf.telemetry.interval_svg import Interval, interval_chart
from scale_rlhf.telemetry.judged import BEHAVIOUR, HELD_OUT, further
from scale_rlhf.telemetry.measures import interval_of, model_name

SHARE = (0.0, 1.0)
COLOURS = 7  # of the page's style


def judged_section(table: Mapping[str, Any]) -> str:
    """HTML of evaluation/table.json's judges and sets; "" of a table without them."""
    if "prompt_sets" not in table:
        return ""
    drawn = "".join([*_wins(table), *_right(table), *_behaviour(table)])
    charts = f'<div class="charts">{drawn}</div>' if drawn else ""
    rows = further(table)
    if not (charts or rows):
        return ""
    head = "".join(f'<th class="number">{escape(model_name(name))}</th>' for name in table["models"])
    cells = "".join(
        f"<tr><td>{escape(row.prompts)}</td><td>{escape(row.label)}</td>"
        + "".join(f'<td class="number">{escape(row.numbers[name])}</td>' for name in table["models"]) + "</tr>"
        for row in rows
    )
    sheet = f'<div class="sheet"><table><tr><th>prompts</th><th></th>{head}</tr>{cells}</table></div>' if rows else ""
    return f"<h2>Judges and prompt sets</h2>{sheet}{charts}"


def _wins(table: Mapping[str, Any]) -> list[str]:
    """Every judge's win rates, the held-out prompts' own first."""
    found = [(f"{model_name(name)}, {table['win_by']}", name, values) for name, values in table["models"].items()]
    for key, one in table["prompt_sets"].items():
        where = "" if key == "held_out" else f", {key}"
        found += [(f"{model_name(name)}, {judge}{where}", name, values)
                  for judge, said in one["judges"].items() for name, values in said["models"].items()]
    known = [one for one in found if one[2].get("win_rate") is not None]
    rows = [_interval(table, label, name, values, "win_rate") for label, name, values in known]
    title, note = f"Win rate against {model_name(table['anchor'])}", "By each judge; at the dashed line both are as good."
    return [_figure(title, rows, note, 0.5)] if rows else []


def _right(table: Mapping[str, Any]) -> list[str]:
    figures = []
    for key, one in table["prompt_sets"].items():
        rows = [_interval(table, model_name(name), name, values, "right") for name, values in one["models"].items()
                if values.get("right") is not None]
        if rows:
            figures.append(_figure(f"Right answers: {key}", rows, "What alignment cost, or brought, in what can be checked."))
    return figures


def _behaviour(table: Mapping[str, Any]) -> list[str]:
    """A picture a measure: models of the held-out prompts, and of each set below them."""
    places = {HELD_OUT: table["models"]} | {key: one["models"] for key, one in table["prompt_sets"].items() if key != "held_out"}
    figures = []
    for measure in BEHAVIOUR:
        rows = [_interval(table, f"{model_name(name)}, {where}", name, values, measure.key)
                for where, models in places.items() for name, values in models.items() if values.get(measure.key) is not None]
        if rows:
            note = "The higher the better." if measure.better == "higher" else "The lower the better."
            figures.append(_figure(measure.label[0].upper() + measure.label[1:], rows, note))
    return figures


def _interval(table: Mapping[str, Any], label: str, name: str, values: Mapping[str, Any], key: str) -> Interval:
    low, high = interval_of(values, key) or (None, None)
    return Interval(label, values[key], low, high, list(table["models"]).index(name) % COLOURS)


def _figure(title: str, rows: list[Interval], note: str, middle: float | None = None) -> str:
    return figure(title, interval_chart(rows, bounds=SHARE, middle=middle), [], note)
