"""What is different between the configuration that a run began with and the one that it shall go on with."""

from dataclasses import dataclass
from typing import Any

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.redaction import redacted

# What may differ: where and on how much a run runs, its deadlines, what it keeps, how long it goes on. All else decides what
# is learned from what, and the part of the run that is done has followed it.
_HARMLESS = (
    "run.folder", "model.shapes", "cluster", "limits", "checkpoint", "recovery", "evaluation", "telemetry",
    "rollout.engines", "rollout.tensor_parallel", "rollout.max_concurrent", "rollout.kv_cache_gb", "rollout.weight_transfer",
    "rollout.verify_weights", "rollout.sleep", "rollout.gpu_memory_utilization", "overlap.update_wave",
    "ppo.steps", "ppo.export_every", "ppo.tokens_per_microbatch", "policy.learning_rate", "value.learning_rate", "reward.url",
)
_HARMLESS_OF_A_ROLE = (
    "cpus", "gpus", "threads", "labels", "resources", "placement", "workers", "replicas", "zero_stage", "offload_optimizer",
    "offload_parameters", "gradient_checkpointing", "tokens_per_batch", "max_wait_ms", "timeout_seconds", "retries",
    "retry_seconds", "microbatch", "save_every", "held_out_every",
)


@dataclass(frozen=True)
class Change:
    """One key. harmful: the run would no longer be one run."""

    key: str
    before: Any
    after: Any
    harmful: bool

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} → {_shown(self.after)}"


def changes(before: RunConfig, after: RunConfig) -> list[Change]:
    """Key by key, in the order of the file. A password is no change: a run's folder does not keep it."""
    old, new = (_flat(redacted(config.model_dump(mode="json"))) for config in (before, after))
    keys = [*old, *(key for key in new if key not in old)]
    return [Change(key, old.get(key), new.get(key), not _harmless(key)) for key in keys if old.get(key) != new.get(key)]


def _harmless(key: str) -> bool:
    if key.startswith("reward.mix."):  # each source has the keys of the section
        key = f"reward.{key.split('.', 3)[-1]}"
    if any(key == one or key.startswith(f"{one}.") for one in _HARMLESS):
        return True
    return "." in key and key.split(".")[1] in _HARMLESS_OF_A_ROLE


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
