"""The tables of docs/monitoring.md, made from the catalogue: python -m scale_rlhf.telemetry.page prints them."""

from scale_rlhf.telemetry.alerts import ALERTS
from scale_rlhf.telemetry.catalogue import QUESTIONS, Metric


def metrics() -> str:
    """A table for each question: key of the line, name in Prometheus, what it says, what is normal, what to do otherwise."""
    parts = []
    for question, rows in QUESTIONS.items():
        parts += [f"### {question}", "", "| in metrics/*.jsonl | in Prometheus: ray_scale_rlhf_… | | normal | otherwise |",
                  "| --- | --- | --- | --- | --- |"]
        parts += [_row(metric) for metric in rows] + [""]
    return "\n".join(parts)


def alerts() -> str:
    """A table of the alerts."""
    rows = [f"| `{alert.name}` | `{_escaped(alert.query)}` | {alert.hold} | {alert.severity} | {_escaped(alert.cure)} |"
            for alert in ALERTS]
    return "\n".join(["| alert | when | for | severity | what to do |", "| --- | --- | --- | --- | --- |", *rows, ""])


def _row(metric: Metric) -> str:
    fixed = dict(metric.fixed)
    labels = ", ".join(f'{name}="{fixed[name]}"' if name in fixed else name for name in metric.label_names)
    name = metric.exported.removeprefix("ray_scale_rlhf_") + (f"{{{labels}}}" if labels else "")
    key = f"`{metric.key}`" if metric.key else ""
    return f"| {key} | `{name}` | {' | '.join(_escaped(text) for text in (metric.about, metric.normal, metric.cure))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(alerts())
    print(metrics(), end="")
