"""Metrics of a stage: one JSONL line a step, and the same scalars as TensorBoard events."""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scale_rlhf import disk
from scale_rlhf.disk import writing
from scale_rlhf.errors import DataError
from scale_rlhf.orchestration.run_folder import write_atomically


class MetricsLog:
    """Appends to metrics/STAGE.jsonl and tensorboard/STAGE of a run; a resumed stage goes on in the same file.

    folder: a RunFolder (`.metrics(stage)` is the file, `.tensorboard(stage)` the folder of events, `.sinks` who else is told).
    after: the step that a resumed stage goes on from. Lines of later steps are dropped, so that no step is there twice.
    steps: that the stage will make, where it is known.
    """

    def __init__(self, folder: Any, stage: str, after: int | None = None, steps: int | None = None):
        self.stage, self.sinks = stage, folder.sinks
        for sink in self.sinks:
            sink.begin(stage, steps)
        self.path = Path(folder.metrics(stage))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(self.path)
        self._again = None if after is None else _keep_until(self.path, after)  # lines whose events are written anew
        self._events_folder = Path(folder.tensorboard(stage))
        self._events = None
        self._file = self.path.open("a", encoding="utf-8")
        # Seconds go on from where an earlier attempt at this stage stopped, so that curves over time stay curves.
        self._start = time.monotonic() - _last_time(self.path)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line, {"step", "time": seconds since the stage began, **values}. NaN and infinities become null."""
        seconds = round(time.monotonic() - self._start, 3)
        numbers = {key: _number(value) for key, value in values.items()}
        line = {"step": int(step), "time": seconds} | numbers
        with writing(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        with writing(self._events_folder):
            self._add_events(self._writer(), line)
        for sink in self.sinks:
            sink.log(self.stage, int(step), numbers)

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close both; a second call does nothing."""
        with writing(self.path):
            self._file.close()
        if self._events is not None:
            events, self._events = self._events, None
            with writing(self._events_folder):
                events.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _writer(self):
        if self._events is None:
            _leave_to_caller()
            from torch.utils.tensorboard import SummaryWriter  # heavy, and no use to a process that logs nothing

            if self._again is None:
                self._events = SummaryWriter(log_dir=str(self._events_folder))
            else:
                self._events = self._events_anew(SummaryWriter)
        return self._events

    def _events_anew(self, kind):
        """Events of the lines that were kept: a process that was killed took with it what it had not flushed in two minutes.

        purge_step: TensorBoard forgets what the older files say. They stay, for one that looks on stops where a file is gone.
        """
        events = kind(log_dir=str(self._events_folder), purge_step=0)
        began = time.time() - (time.monotonic() - self._start)
        for line in self._again:
            self._add_events(events, line, began + (line.get("time") or 0.0))
        return events

    @staticmethod
    def _add_events(events, line: Mapping[str, float], walltime: float | None = None) -> None:
        for key, number in line.items():
            if key not in ("step", "time") and number is not None:
                events.add_scalar(key, number, line["step"], walltime=walltime)


def read_metrics(path: Path | str) -> list[dict]:
    """Lines of a metrics file in the order of steps; where a resumed run wrote a step again, the later line counts.

    A missing file is no lines. A line that is not JSON is a DataError, but for a last one that was cut by a crash.
    """
    by_step = {line["step"]: line for line in _lines(Path(path))}
    return [by_step[step] for step in sorted(by_step)]


def read_jsonl(path: Path | str) -> list[dict]:
    """Rows of a JSONL file that a stage wrote, in file order, under the same rules as `read_metrics`."""
    return list(_lines(Path(path)))


def _lines(path: Path) -> Iterator[dict]:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return  # no newline after it: the process died while writing it
            raise DataError(f"{path}:{number}: expected one JSON object a line, found {line[:60]!r} ({error.msg})") from None


def _leave_to_caller() -> None:
    """TensorBoard writes in a thread. What fails there is raised to who writes next; Python would print a traceback before."""
    if getattr(threading.excepthook, "leaves_disks", False):
        return
    before = threading.excepthook

    def hook(failed) -> None:
        if disk.reason(failed.exc_value) is None or not type(failed.thread).__module__.startswith("tensorboard"):
            before(failed)

    hook.leaves_disks = True
    threading.excepthook = hook


def _number(value: Any) -> float | int | None:
    """A plain number from a Python, numpy or torch scalar; None where it is not finite."""
    number = value.item() if hasattr(value, "item") else value
    if number is None or not math.isfinite(number):
        return None
    return number


def _end_torn_line(path: Path) -> None:
    """Drop a last line that a crash cut short, so that what is appended starts a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with writing(path):
            os.truncate(path, content.rfind(b"\n") + 1)


def _keep_until(path: Path, step: int) -> list[dict]:
    """Leave the lines up to `step` in the file, each step once, and return them."""
    lines = [line for line in read_metrics(path) if line["step"] <= step]
    if path.exists():
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def _last_time(path: Path) -> float:
    times = [line.get("time") or 0.0 for line in _lines(path)]
    return max(times, default=0.0)
