"""Who is told of every metric beside the run's own files: Ray, for Prometheus, and the trackers that the configuration names."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry import instruments

BESIDE = ("held_out",)  # its lines come while another stage runs
NOT_LIVE = ("evaluate",)  # its lines are about steps that have long been made


class Sink(Protocol):
    def begin(self, stage: str, steps: int | None) -> None:
        """A stage begins, or goes on; steps: that it will have made at its end."""

    def log(self, stage: str, step: int, values: Mapping[str, float | None]) -> None:
        """What a line of metrics/STAGE.jsonl says."""

    def close(self, failed: bool) -> None:
        """The run has ended, or failed."""


@contextmanager
def sinks(config: RunConfig, folder: RunFolder) -> Iterator[None]:
    """Inside, `folder.sinks` are there. RunError where a tracker that is asked for cannot be reached."""
    from scale_rlhf.telemetry.trackers import trackers

    folder.sinks = [Plan(folder), RayMetrics(), *trackers(config, folder)]
    failed = True
    try:
        yield
        failed = False
    finally:
        telling, folder.sinks = folder.sinks, []
        for sink in telling:
            sink.close(failed)


class Plan:
    """Keeps in run.json how many steps a stage will make, for who looks at the folder."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def begin(self, stage: str, steps: int | None) -> None:
        if steps is not None:
            self.folder.note(steps=self.folder.state().get("steps", {}) | {stage: steps})

    def log(self, stage: str, step: int, values: Mapping[str, float | None]) -> None:
        """Nothing."""

    def close(self, failed: bool) -> None:
        """Nothing."""


class RayMetrics:
    """Gauges, counters and histograms of Ray, by the catalogue; and how far the stage is, at what pace."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self.clock, self.stage, self.last = clock, None, 0.0
        self.ages: set[str] = set()  # of samples, that some step had

    def begin(self, stage: str, steps: int | None) -> None:
        if stage in BESIDE:
            return
        if self.stage not in (None, stage):
            instruments.record("stage_running", 0.0, stage=self.stage)
        if self.stage != stage:
            instruments.record("step", 0.0, stage=stage)
        self.stage, self.last = stage, self.clock()
        instruments.record("stage_running", 1.0, stage=stage)
        instruments.record("step_timestamp_seconds", self.last)
        instruments.record("step_seconds", 0.0)
        instruments.record("steps", steps, stage=stage)

    def log(self, stage: str, step: int, values: Mapping[str, float | None]) -> None:
        if stage in NOT_LIVE:
            return
        if stage in BESIDE:
            for key, value in values.items():
                instruments.record_line(key, value, stage)
            return
        before, self.last = self.last, self.clock()
        instruments.record("step", step, stage=stage)
        instruments.record("step_timestamp_seconds", self.last)
        instruments.record("step_seconds", self.last - before)
        self.ages |= {key for key in values if key.startswith("staleness/share_")}
        for key, value in (dict.fromkeys(self.ages, 0.0) | dict(values)).items():  # an age that none has now is no old number
            instruments.record_line(key, value, stage)

    def close(self, failed: bool) -> None:
        """Nothing: its series end with this process."""
