"""Gauges, counters and histograms of Ray, which its agent on each node offers to Prometheus as ray_scale_rlhf_NAME.

What is not in the catalogue cannot be recorded. A gauge that is not set again is forgotten by Ray's agent after 20 seconds, and a
step may take an hour: so each process sets its gauges again (`refresh`), and their series last as long as it does.
"""

import math
import os
import sys
from functools import cache
from typing import Any

from scale_rlhf.telemetry import catalogue, logs

PREFIX = "scale_rlhf_"  # Ray puts ray_ before it
_set: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}  # the last value of every gauge, by name and labels


def record(name: str, value: float | None, **labels: str) -> None:
    """Set the gauge, raise the counter by `value`, or observe it; nothing where there is no Ray, or no number.

    labels: those of the catalogue; the run's is added. KeyError for a name that the catalogue has not.
    """
    metric = catalogue.BY_NAME[name]
    if value is None or not math.isfinite(value) or not _connected():
        return
    tags = {"run": os.environ.get(logs.RUN, "-")} | labels
    if metric.kind == "gauge":
        _set[name, tuple(tags.items())] = float(value)
        _instrument(name).set(float(value), tags)
    elif metric.kind == "histogram":
        _instrument(name).observe(float(value), tags)
    elif value > 0:  # Ray's counters refuse to stay where they are
        _instrument(name).inc(float(value), tags)


def refresh() -> None:
    """Set every gauge of this process again, to what it was."""
    if _connected():
        for (name, tags), value in list(_set.items()):
            _instrument(name).set(value, dict(tags))


def record_line(key: str, value: float | None, stage: str) -> bool:
    """Record what a line of metrics/STAGE.jsonl says under `key`. False where the catalogue has no such key."""
    found = catalogue.find(key, stage)
    if found is None:
        return False
    metric, labels = found
    record(metric.name, value, **labels)
    return True


@cache
def _instrument(name: str) -> Any:
    from ray.util import metrics

    metric = catalogue.BY_NAME[name]
    common = {"name": PREFIX + name, "description": in_ascii(metric.about), "tag_keys": ("run", *metric.label_names)}
    if metric.kind == "histogram":
        return metrics.Histogram(**common, boundaries=list(metric.bounds))
    return {"gauge": metrics.Gauge, "counter": metrics.Counter}[metric.kind](**common)


def _connected() -> bool:
    initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # another thread may be importing it
    return initialized is not None and initialized()


def in_ascii(text: str) -> str:
    """Ray's descriptions take no other characters."""
    return text.replace("π", "pi").replace("β", "beta").encode("ascii", "replace").decode()
