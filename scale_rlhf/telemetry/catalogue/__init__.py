"""Every metric that a run has: what it is called in a stage's lines and in Prometheus, what is normal, what to do otherwise.

In the order of the questions that somebody asks who looks at a run: is it learning, is it healthy, who is the bottleneck.
`docs/monitoring.md` shows it (telemetry/page.py), and nothing is exported that is not here (telemetry/instruments.py).
"""

from functools import cache

from scale_rlhf.telemetry.catalogue.bottleneck import BOTTLENECK
from scale_rlhf.telemetry.catalogue.health import HEALTH
from scale_rlhf.telemetry.catalogue.held_out import HELD_OUT
from scale_rlhf.telemetry.catalogue.learning import LEARNING, SUPERVISED
from scale_rlhf.telemetry.catalogue.metric import ROLES, Metric

QUESTIONS: dict[str, tuple[Metric, ...]] = {
    "Is it learning?": (*LEARNING, *HELD_OUT), "Is it healthy?": HEALTH, "Who is the bottleneck?": BOTTLENECK,
    "The stages before PPO": SUPERVISED,
}
METRICS: tuple[Metric, ...] = tuple(metric for metrics in QUESTIONS.values() for metric in metrics)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}  # rows of one name agree in all that this is asked for

__all__ = ["BY_NAME", "METRICS", "QUESTIONS", "ROLES", "Metric", "find"]


@cache
def find(key: str, stage: str = "ppo") -> tuple[Metric, dict[str, str]] | None:
    """The metric that a key of a stage's line is, and its labels beside the run; None where there is none."""
    for metric in METRICS:
        if metric.key and (labels := metric.labels_of(key, stage)) is not None:
            return metric, labels
    return None
