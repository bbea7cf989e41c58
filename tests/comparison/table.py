"""What the runs found, a row a method: on the terminal, as JSON, as Markdown."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from tests.comparison.methods import METHODS

# key: (heading, number of decimals)
COLUMNS = {"score": ("true score", 2), "win_rate": ("win rate", 2), "reward": ("reward model", 2), "kl": ("KL, nats", 2),
           "perplexity": ("tax: perplexity", 1), "tokens": ("tokens", 1), "seconds": ("seconds", 0)}
SFT = "SFT"  # what all methods start from


@dataclass(frozen=True)
class Measured:
    """One method (or the SFT model) at one seed. values: by column, those that were measured."""

    title: str
    seed: int
    values: dict[str, float]


@dataclass(frozen=True)
class Cell:
    """Over seeds. deviation: the sample standard deviation; None of a single seed."""

    mean: float
    deviation: float | None

    def shown(self, decimals: int) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{spread}"


def measured(method: str, seed: int, made: Path, judged: Path) -> list[Measured]:
    """What an evaluation says of the SFT model and of the method's. made, judged: folders of the two runs."""
    table = json.loads((judged / "evaluation" / "table.json").read_text())
    stages = json.loads((made / "run.json").read_text())["stages"]
    title, seconds = METHODS[method].title, stages[METHODS[method].stage]["seconds"]
    found = {SFT: table["models"]["sft"], title: table["models"]["ppo"] | {"seconds": seconds}}
    return [Measured(name, seed, {key: values[key] for key in COLUMNS if values.get(key) is not None})
            for name, values in found.items()]


def rows(found: Sequence[Measured]) -> dict[str, dict[str, Cell]]:
    """A row a method in their order, SFT first: each column's mean and deviation over the seeds that have it.

    SFT is measured beside each method, and alike each time: it counts once a seed.
    """
    made = {}
    for title in (SFT, *(method.title for method in METHODS.values())):
        seeds = {one.seed: one.values for one in found if one.title == title}
        columns = {key: [values[key] for values in seeds.values() if key in values] for key in COLUMNS}
        if seeds:
            made[title] = {key: _cell(values) for key, values in columns.items() if values}
    return made


def _cell(values: Sequence[float]) -> Cell:
    return Cell(mean(values), stdev(values) if len(values) > 1 else None)


def lines(found: Sequence[Measured]) -> list[list[str]]:
    """The table as text, its heading first."""
    body = [[title, *(cells[key].shown(decimals) if key in cells else "–" for key, (_, decimals) in COLUMNS.items())]
            for title, cells in rows(found).items()]
    return [["", *(heading for heading, _ in COLUMNS.values())], *body]


def markdown(found: Sequence[Measured], about: str) -> str:
    """A page with the table. about: what was run."""
    head, *body = lines(found)
    ruled = [head, ["---"] * len(head), *body]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in ruled), "", about, ""])


def show(found: Sequence[Measured], about: str, console: Console) -> None:
    head, *body = lines(found)
    table = Table(title="Methods compared", title_justify="left")
    for place, heading in enumerate(head):
        table.add_column(heading, justify="right" if place else "left")
    for line in body:
        table.add_row(*line)
    console.print(table)
    console.print(about, highlight=False, soft_wrap=True)


def write(found: Sequence[Measured], about: str, settings: dict, folder: Path) -> None:
    """comparison.json (every run's numbers, and each row) and comparison.md."""
    content = {"settings": settings, "runs": [vars(one) for one in found],
               "rows": {title: {key: vars(cell) for key, cell in cells.items()} for title, cells in rows(found).items()}}
    assert all(math.isfinite(value) for one in found for value in one.values.values())
    (folder / "comparison.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "comparison.md").write_text(markdown(found, about), encoding="utf-8")
