"""Alerts as rules of Prometheus. Each says what to do; docs/monitoring.md says it at length."""

from dataclasses import dataclass
from typing import Any

from scale_rlhf.telemetry.panels import series

# Longer than any step of a small run; a large run's own pace counts instead.
_SILENT_SECONDS, _PACES = 900, 10


@dataclass(frozen=True)
class Alert:
    """query: true while something is wrong. hold: for how long it must be so."""

    name: str
    query: str
    hold: str
    severity: str
    summary: str
    cure: str


def _all(name: str, selector: str = "") -> str:
    return series(name, selector)


_AGE = f"time() - {_all('step_timestamp_seconds')}"
_LIVE = _all("stage_running", 'stage!="evaluate"')  # evaluation tells of its steps at its end
_LOST = "{all} > 0 and {all} < 5"

ALERTS = (
    Alert("RunMakesNoProgress",
          f"({_AGE} > {_SILENT_SECONDS} and {_AGE} > {_PACES} * {_all('step_seconds')}) "
          f"and on (run) {_LIVE} == 1", "1m", "critical",
          "{{ $labels.run }}: no step for {{ $value | humanizeDuration }}",
          "scale-rlhf top RUN says who waits for what; the run ends itself at limits.stall_seconds."),
    Alert("EngineLost", _LOST.format(all=_all("state", 'role="rollout"')), "1m", "warning",
          "{{ $labels.run }}: rollout/{{ $labels.replica }} does not serve (state {{ $value }})",
          "It is replaced by itself. Where that does not help: faults.jsonl, the actor's log, free GPUs and memory of its node."),
    Alert("RoleLost", _LOST.format(all=_all("state", 'role!="rollout"')), "1m", "critical",
          "{{ $labels.run }}: {{ $labels.role }}/{{ $labels.replica }} does not serve (state {{ $value }})",
          "As for an engine; policy and value go back to the newest checkpoint."),
    Alert("KLOutOfBounds", f"{_all('kl')} > 0.8 * {_all('kl_limit')} or {_all('kl')} > 3 * {_all('kl_target')}", "0m", "warning",
          "{{ $labels.run }}: the policy is {{ $value | humanize }} nats a response from the reference",
          "Read the newest answers in ppo/samples.jsonl; raise ppo.kl_coefficient or lower policy.learning_rate."),
    Alert("EngineTrainerGap", f"{_all('parity_gap_max')} > 0.5 * {_all('parity_gap_limit')}", "0m", "critical",
          "{{ $labels.run }}: engine and trainer differ by {{ $value | humanize }} nats",
          "Compare rollout.dtype with policy.dtype; set rollout.verify_weights=true to find the tensor."),
    Alert("DiskFilling",
          f"{_all('disk_free_bytes')} < 0.05 * {_all('disk_total_bytes')} "
          f"or predict_linear({_all('disk_free_bytes')}[1h], 4 * 3600) < 0", "5m", "critical",
          "{{ $labels.run }}: the disk of its folder has {{ $value | humanize1024 }}B left, or will be full within 4 hours",
          "Lower checkpoint.keep_last, leave ppo.export_every out, or make room; a run that meets a full disk stops whole."),
)


def rules() -> dict[str, Any]:
    """What alerts.yml holds."""
    return {"groups": [{"name": "scale-rlhf", "rules": [
        {"alert": alert.name, "expr": alert.query, "for": alert.hold, "labels": {"severity": alert.severity},
         "annotations": {"summary": alert.summary, "description": alert.cure}} for alert in ALERTS]}]}
