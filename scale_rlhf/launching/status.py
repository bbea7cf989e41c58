"""`scale-rlhf status`: where a run on a cluster stands, and which runs there are."""

import time
from collections.abc import Sequence

from rich.table import Table

from scale_rlhf.launching.jobs import Job
from scale_rlhf.launching.run_log import Progress


def lines(job: Job, at: Progress, older: Sequence[Job] = ()) -> list[str]:
    """State, stage, step, since when, the last line. older: jobs of the same run."""
    shown = [("run", job.run or "–"), ("job", job.id), ("state", _state(job))]
    shown += [("stage", at.stage), ("step", at.step), ("folder", at.folder), ("last line", at.last)]
    shown += [("before", ", ".join(f"{one.id} ({one.state.lower()})" for one in older))]
    return [f"{name:<10} {value}" for name, value in shown if value]


def table(jobs: Sequence[Job]) -> Table:
    """One row a job."""
    result = Table()
    for column in ("run", "job", "state"):
        result.add_column(column)
    for job in jobs:
        result.add_row(job.run or "–", job.id, _state(job))
    return result


def _state(job: Job) -> str:
    since = job.ended if job.is_over else job.began
    took = f", after {_span(job.ended - job.began)}" if job.is_over and job.began and job.ended else ""
    code = f" with exit status {job.exit}" if job.exit else ""
    at = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since))}" if since else ""
    return job.state.lower() + code + at + took


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
