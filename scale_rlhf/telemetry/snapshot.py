"""Where a run is, read from its folder: stages, steps, rates, who serves, what failed. Needs no Ray, and no torch."""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_rlhf.errors import DataError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry.metrics import read_jsonl

_TAIL = 256 << 10  # bytes of a metrics file that are looked at: its last steps
_RECENT = 20  # steps that the pace is taken over


@dataclass(frozen=True)
class Member:
    """A process of a role. since: seconds that it has been in its state. idle: share of the last step; None: not known."""

    name: str
    state: str
    since: float
    idle: float | None = None

    @property
    def role(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Snapshot:
    """stages: (name, state, seconds). stage: the one that runs, or ran last. last: numbers of its last step.

    step, steps: made, and to make (None where it is not known). step_seconds: the median of the last steps. silent: seconds since
    the controller of a PPO stage last wrote its status; None where it writes none. queue: samples. faults: newest last.
    """

    name: str
    stages: list[tuple[str, str, float | None]]
    stage: str
    state: str
    step: int
    steps: int | None
    step_seconds: float | None
    last: dict[str, Any]
    members: list[Member]
    queue: dict[str, float]
    silent: float | None
    faults: list[dict]

    @property
    def seconds_left(self) -> float | None:
        """Of the stage, at the pace of the last steps."""
        if self.steps is None or self.step_seconds is None or self.state != "running":
            return None
        return max(self.steps - self.step, 0) * self.step_seconds


def snapshot(folder: RunFolder, now: float | None = None) -> Snapshot:
    """The run at this moment. Raises RunError where run.json cannot be read. now: seconds since the epoch."""
    now = time.time() if now is None else now
    record = folder.state()
    stages = [(name, one["state"], one.get("seconds")) for name, one in record["stages"].items()]
    begun = [(name, state) for name, state, _ in stages if state != "waiting"]
    stage, state = begun[-1] if begun else stages[0][:2]
    lines = _newest(folder.path / "metrics" / f"{stage}.jsonl")
    last = lines[-1] if lines else {}
    status = _status(folder.status) if stage == "ppo" and state == "running" else {}
    return Snapshot(
        name=folder.name, stages=stages, stage=stage, state=state, step=last.get("step", 0),
        steps=record.get("steps", {}).get(stage), step_seconds=_pace(lines), last=last,
        members=[Member(name, is_in, now - since, last.get(f"idle/{name.split('/')[0]}"))
                 for name, is_in, since in status.get("members", [])],
        queue=status.get("queue", {}), silent=now - status["at"] if status else None, faults=_faults(folder.faults),
    )


def _newest(path: Path) -> list[dict]:
    """The last whole lines of a metrics file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            text = file.read()
    except OSError:
        return []
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    if size > _TAIL:
        lines = lines[1:]  # its beginning is cut off
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        raise DataError(f"{path}: expected one JSON object a line") from None


def _pace(lines: list[dict]) -> float | None:
    recent = lines[-_RECENT - 1:]
    seconds = [b["time"] - a["time"] for a, b in zip(recent, recent[1:], strict=False) if b["step"] == a["step"] + 1]
    return statistics.median(seconds) if seconds else None


def _status(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _faults(path: Path) -> list[dict]:
    try:
        return read_jsonl(path)
    except OSError:
        return []
