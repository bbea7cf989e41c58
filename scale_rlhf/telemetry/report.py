"""report.html: all that a run found, in one file that needs nothing else. Shows what there is; any part may be missing."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from scale_rlhf.config.schema import STAGES
from scale_rlhf.telemetry.charts import OVERLAP, QUALITY, SUPERVISED, TRAINING, draw, draw_timeline, draw_times
from scale_rlhf.telemetry.judged_report import judged_section
from scale_rlhf.telemetry.measures import conclusions, measured, model_name
from scale_rlhf.telemetry.metrics import read_jsonl, read_metrics
from scale_rlhf.telemetry.overoptimisation_report import overoptimisation_section
from scale_rlhf.telemetry.report_style import STYLE
from scale_rlhf.telemetry.reward_report import reward_section
from scale_rlhf.telemetry.timeline import read_lanes

ANSWERS_SHOWN, ANSWERS_FOLDED = 6, 60


def write_report(folder: Any) -> Path:
    """Write FOLDER/report.html from what lies in a run's folder, and return its path.

    folder: a RunFolder, or the path of one. All text from files is escaped; there are no links, scripts or fonts from elsewhere.
    """
    path = Path(getattr(folder, "path", folder))
    metrics = {stage: read_metrics(path / "metrics" / f"{stage}.jsonl") for stage in (*STAGES, "held_out")}
    table = _json(path / "evaluation" / "table.json")
    state, environment = _json(path / "run.json"), _json(path / "environment.json")
    sections = [
        _header(path.name, state, environment),
        _tiles(table),
        _table(table),
        judged_section(table),
        _answers("Answers side by side", read_jsonl(path / "evaluation" / "answers.jsonl")),
        *(_answers(f"Answers side by side: {name}", read_jsonl(path / "evaluation" / f"answers-{name}.jsonl"))
          for name in table.get("prompt_sets", {}) if name != "held_out"),
        _charts("What reinforcement learning changed", draw(QUALITY, metrics)),
        overoptimisation_section(path),
        _charts("How it learned", draw(TRAINING, metrics)),
        _charts("Where the time went", draw_times(metrics)),
        *draw_timeline(_lanes(path / "timeline.json")),
        _charts("How far rollouts and updates overlap", draw(OVERLAP, metrics)),
        _charts("The stages before", draw(SUPERVISED, metrics)),
        reward_section(_json(path / "reward" / "quality.json")),
        _stages(state),
        _folded("Configuration, resolved", _text(path / "config.yaml")),
        _folded("Versions, machine and seeds", json.dumps(environment, indent=2, ensure_ascii=False) if environment else ""),
    ]
    report = path / "report.html"
    report.write_text(_page(path.name, "\n".join(filter(None, sections))), encoding="utf-8")
    return report


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _header(name: str, state: Mapping, environment: Mapping) -> str:
    packages = environment.get("packages") or {}
    seeds = environment.get("seeds") or {}
    facts = [
        str(state.get("created") or environment.get("created") or "").replace("T", " ")[:16],
        f"seed {seeds['run']}" if seeds.get("run") is not None else "",
        f"{environment['cpus']} CPUs" if environment.get("cpus") else "",
        f"scale-rlhf {packages['scale-rlhf']}" if packages.get("scale-rlhf") else "",
    ]
    return f'<h1>{escape(name)}</h1><p class="soft">{escape(" · ".join(filter(None, facts)))}</p>'


def _tiles(table: Mapping) -> str:
    """The numbers that a reader wants first."""
    if not table:
        return ""
    models, anchor = table["models"], table["anchor"]
    before, after = models.get(anchor, {}), models.get("ppo", {})
    tiles = [
        (_percent(table.get("gap_closed")), "of the gap to the best answers closed"),
        (_from_to(before.get("score"), after.get("score")), f"true score, {model_name(anchor)} → PPO"),
        (_percent(after.get("win_rate")), f"wins against {model_name(anchor)}"),
        (_from_to(before.get("reward"), after.get("reward")), f"reward-model score, {model_name(anchor)} → PPO"),
        (_from_to(before.get("perplexity"), after.get("perplexity")), "perplexity on base text"),
    ]
    shown = "".join(
        f'<div class="tile"><b>{escape(number)}</b><span>{escape(label)}</span></div>' for number, label in tiles if number
    )
    return f'<div class="tiles">{shown}</div>' if shown else ""


def _table(table: Mapping) -> str:
    if not table:
        return ""
    names = list(table["models"])
    head = "".join(f'<th class="number">{escape(model_name(name))}</th>' for name in names)
    rows = []
    for measure, label, numbers in measured(table):
        best = _best(measure, table)
        cells = "".join(f'<td class="number{" best" if name in best else ""}">{escape(numbers[name])}</td>' for name in names)
        rows.append(f"<tr><td>{escape(label)}</td>{cells}</tr>")
    said = "".join(f'<p class="soft">{escape(line)}</p>' for line in conclusions(table))
    grid = f'<div class="sheet"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    return f"<h2>Evaluation on held-out prompts</h2>{grid}{said}"


def _best(measure, table: Mapping) -> set[str]:
    """Models that have the best number as it is written, where better is known and not all are alike."""
    numbers = {name: values.get(measure.key) for name, values in table["models"].items()}
    numbers = {name: number for name, number in numbers.items() if number is not None}
    if not measure.better or len(numbers) < 2:
        return set()
    top = measure.shown((max if measure.better == "higher" else min)(numbers.values()))
    best = {name for name, number in numbers.items() if measure.shown(number) == top}
    return best if len(best) < len(numbers) else set()


def _answers(title: str, rows: Sequence[Mapping]) -> str:
    if not rows:
        return ""
    first, more = rows[:ANSWERS_SHOWN], rows[ANSWERS_SHOWN:ANSWERS_FOLDED]
    folded = (
        f'<details><summary>{len(more)} more</summary><div class="answers">{"".join(map(_answer, more))}</div></details>'
        if more
        else ""
    )
    return f'<h2>{escape(title)}</h2><div class="answers">{"".join(map(_answer, first))}</div>{folded}'


def _answer(row: Mapping) -> str:
    said = "".join(
        f'<p><span class="who">{escape(model_name(name))}</span>{escape(answer["text"].strip() or "(nothing)")}'
        f'<span class="mark">{escape(_mark(answer))}</span></p>'
        for name, answer in row["answers"].items()
    )
    return f'<div class="answer"><h3>{escape(row["prompt"])}</h3>{said}</div>'


def _mark(answer: Mapping) -> str:
    parts = [
        f"{label} {answer[key]:.2g}" for key, label in (("score", "true"), ("reward", "reward")) if answer.get(key) is not None
    ]
    parts += [f"{judge} {number:.2g}" for judge, number in answer.get("judges", {}).items()]
    return ", ".join(parts)


def _charts(title: str, figures: Sequence[str]) -> str:
    return f'<h2>{escape(title)}</h2><div class="charts">{"".join(figures)}</div>' if figures else ""


def _stages(state: Mapping) -> str:
    if not state.get("stages"):
        return ""
    rows = []
    for name, record in state["stages"].items():
        if record.get("state") == "running":
            continue  # the evaluation itself, while it writes this
        said = ", ".join(f"{key} {_value(value)}" for key, value in _flat(record) if key not in ("state", "at"))
        rows.append(f"<tr><td>{escape(name)}</td><td>{escape(str(record.get('state', '')))}</td><td>{escape(said)}</td></tr>")
    head = "<tr><th>stage</th><th>state</th><th>what it said</th></tr>"
    return f'<h2>Stages</h2><div class="sheet"><table>{head}{"".join(rows)}</table></div>'


def _flat(record: Mapping) -> list[tuple[str, Any]]:
    """Keys and values, those of a dictionary inside taken out of it."""
    pairs: list[tuple[str, Any]] = []
    for key, value in record.items():
        pairs += value.items() if isinstance(value, Mapping) else [(key, value)]
    return pairs


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def _percent(number: float | None) -> str:
    return "" if number is None else f"{number:.0%}"


def _from_to(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.2f} → {after:.2f}"


def _lanes(path: Path) -> dict:
    return read_lanes(path) if path.exists() else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> dict:
    return json.loads(_text(path) or "{}")
