"""What one benchmark found: figures, every block's numbers, the settings, the machine. Written as JSON, read for the summary."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.alternate import Blocks
from benchmarks.machine import describe
from benchmarks.measure import Aim, Figure, Spread

FOLDER = Path(__file__).parent / "results"


@dataclass
class Result:
    """name: of the benchmark. size: "3M" or "50M"."""

    name: str
    size: str
    settings: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    blocks: dict[str, Blocks] = field(default_factory=dict)  # by part of the benchmark
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe)
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S"))
    seconds: float = 0.0

    @property
    def stem(self) -> str:
        """Of its files."""
        return f"{self.name}-{self.size}"

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.name, "size": self.size, "started": self.started, "seconds": round(self.seconds, 1),
            "settings": self.settings, "machine": self.machine, "notes": self.notes,
            "figures": [figure.as_json() for figure in self.figures], "blocks": self.blocks,
        }

    def write(self, folder: Path = FOLDER) -> Path:
        """The JSON file; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
        path = folder / f"{self.stem}.json"
        path.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def read(path: Path) -> Result:
    """A result that was written."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Result(
        found["benchmark"], found["size"], found["settings"], [_figure(one) for one in found["figures"]], found["blocks"],
        found["notes"], found["machine"], found["started"], found["seconds"],
    )


def _figure(fields: dict) -> Figure:
    spreads = {key: Spread(**fields[key]) for key in ("ours", "other", "ratio")}
    return Figure(fields["name"], fields["against"], fields["unit"], **spreads, aim=_aim(fields["aim"]))


def _aim(text: str | None) -> Aim | None:
    if text is None:
        return None
    sign, value = text.split()
    return Aim("at_least" if sign == "≥" else "at_most", float(value))


def verdicts(results: Sequence[Result]) -> dict[str, int]:
    """How many aims were met and missed."""
    said = [figure.verdict for result in results for figure in result.figures if figure.verdict]
    return {"met": said.count("met"), "missed": said.count("missed")}
