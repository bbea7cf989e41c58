"""Results for a reader: a table on the terminal, and a page with a plot of each benchmark."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure, spread_text
from benchmarks.plot import bars
from benchmarks.result import FOLDER, Result, verdicts

_COLOURS = {"met": "green", "missed": "red", "": "dim"}


def show(results: Sequence[Result], console: Console | None = None) -> None:
    """The table of all figures, and under it what was noted."""
    console = console or Console()
    for result in results:
        console.print(table(result))
        for note in result.notes:
            console.print(f"  {note}", markup=False, soft_wrap=True)
    count = verdicts(results)
    if count["met"] + count["missed"]:
        console.print(f"{count['met']} aims met, {count['missed']} missed", style="bold")


def table(result: Result) -> Table:
    """One row a figure: the ratio with the spread of its blocks, the aim, and both sides of the ratio."""
    found = Table(title=f"{result.name}, {result.size} ({result.seconds:.0f} s)", title_justify="left", title_style="bold")
    for name in ("figure", "ratio (min–max)", "aim", "", "ours and what it is against"):
        found.add_column(name, no_wrap=name != "figure" and not name.startswith("ours"))
    for figure in result.figures:
        found.add_row(*row(figure), style=None if figure.verdict else "dim")
    return found


def row(figure: Figure) -> list[str]:
    colour = _COLOURS[figure.verdict]
    return [
        figure.name, spread_text(figure.ratio, 2), str(figure.aim or ""), f"[{colour}]{figure.verdict}[/{colour}]",
        f"{spread_text(figure.ours)}, {figure.against} {spread_text(figure.other)} {figure.unit}",
    ]


def write_page(results: Sequence[Result], folder: Path = FOLDER) -> Path:
    """results/index.html: a plot and a table of every result, in one file that needs nothing else."""
    from scale_rlhf.telemetry.report_style import STYLE

    body = "\n".join(_section(result) for result in results)
    page = (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Benchmarks</title><style>{STYLE}</style></head>'
            f"\n<body><main><h1>Benchmarks</h1>\n{body}\n</main></body></html>\n")
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _section(result: Result) -> str:
    machine = result.machine
    about = f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_at_start'][0]} at the start, {result.started}"
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _plain(figure)) + "</tr>" for figure in result.figures)
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("figure", "ratio", "aim", "", "ours and what it is against"))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in result.notes)
    return (f"<h2>{escape(result.name)}, {escape(result.size)}</h2><p class='soft'>{escape(about)}</p>"
            f"<figure>{bars(result.figures)}</figure>"
            f"<div class='sheet'><table><tr>{heads}</tr>{rows}</table></div>{notes}")


def _plain(figure: Figure) -> list[str]:
    cells = row(figure)
    return [*cells[:3], figure.verdict, *cells[4:]]
