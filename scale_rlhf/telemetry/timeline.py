"""timeline.json: what every actor did and when, one lane each. Opens in Perfetto (ui.perfetto.dev) and chrome://tracing.

The file is Chrome's trace format, an array of events. It is written as the run goes; a file that a crash left without its
last bracket opens all the same.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scale_rlhf.disk import writing
from scale_rlhf.telemetry.spans import Span, busy

ORDER = ("controller", "rollout", "reward", "reference", "policy", "value")


class Timeline:
    """Appends spans by lane, such as "policy/0". goes_on: keep what is in the file; otherwise it is replaced."""

    def __init__(self, path: Path | str, goes_on: bool = False):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = read_lanes(self.path) if goes_on and self.path.exists() else {}
        self._lanes: dict[str, int] = {}
        self._first = True
        beside = self.path.with_name(f".{self.path.name}")
        with writing(self.path):  # beside: what is there stays until all of it is written again
            self._file = beside.open("w", encoding="utf-8")
            self.add(before)
            os.replace(beside, self.path)

    def add(self, lanes: Mapping[str, Sequence[Span]]) -> None:
        """Write spans; a lane gets its number, in the order of the data's way, when it first appears."""
        with writing(self.path):
            for lane in sorted(lanes, key=_rank):
                if lane not in self._lanes:
                    self._name(lane)
                for span in lanes[lane]:
                    start, duration = round(span.start * 1e6), max(1, round(span.seconds * 1e6))
                    self._event({"name": span.name, "ph": "X", "ts": start, "dur": duration, "pid": 1,
                                 "tid": self._lanes[lane], "args": span.details})
            self._file.flush()

    def close(self) -> None:
        """Close the array; a second call does nothing."""
        if not self._file.closed:
            with writing(self.path), self._file:
                self._file.write("[]\n" if self._first else "\n]\n")

    def _name(self, lane: str) -> None:
        number = self._lanes[lane] = len(self._lanes) + 1
        place = {"ph": "M", "pid": 1, "tid": number}
        self._event({"name": "thread_name", "args": {"name": lane}} | place)
        self._event({"name": "thread_sort_index", "args": {"sort_index": _rank(lane)[0] * 1000 + number}} | place)

    def _event(self, event: dict) -> None:
        self._file.write(("[\n" if self._first else ",\n") + json.dumps(event))
        self._first = False


def read_lanes(path: Path | str) -> dict[str, list[Span]]:
    """Spans by lane from a timeline file, finished or not. A last event that a crash cut is left out."""
    text = Path(path).read_text(encoding="utf-8").rstrip()
    if not text.endswith("]"):  # an event a line: those before the last are whole
        lines = text.splitlines()
        text = "\n".join(lines if lines and lines[-1].endswith("}") else lines[:-1]).rstrip().rstrip(",") + "\n]"
    events = json.loads(text) if text != "\n]" else []
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    lanes: dict[str, list[Span]] = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            start = event["ts"] / 1e6
            lanes[names[event["tid"]]].append(Span(event["name"], start, start + event["dur"] / 1e6, event["args"]))
    return lanes


def busy_shares(lanes: Mapping[str, Sequence[Span]], start: float, end: float) -> dict[str, float]:
    """Share of [start, end] in which each role worked: mean over its lanes."""
    roles: dict[str, list[float]] = {}
    for lane, spans in lanes.items():
        roles.setdefault(lane.split("/")[0], []).append(busy(list(spans), start, end) / max(end - start, 1e-9))
    return {role: sum(shares) / len(shares) for role, shares in roles.items()}


def _rank(lane: str) -> tuple[int, str]:
    role = lane.split("/")[0]
    return (ORDER.index(role) if role in ORDER else len(ORDER), lane)
