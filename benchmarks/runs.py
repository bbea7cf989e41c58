"""Configurations of the benchmarks' own runs, and a Ray cluster for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scale_rlhf.config.schema import RunConfig

SHARE = {"cpus": 0.1}  # of a core, for Ray's placement alone: a benchmark says itself who gets which threads


def config(**sections: dict[str, Any]) -> RunConfig:
    """A run's configuration in which every role fits on two cores."""
    roles = {role: SHARE | sections.get(role, {}) for role in ("rollout", "reward", "reference", "policy", "value")}
    cluster = {"cpus": 4, "gpus": 0, "dashboard": False, "object_store_gb": 0.3}
    return RunConfig.model_validate({"cluster": cluster} | sections | roles)


@contextmanager
def ray(run: RunConfig) -> Iterator[None]:
    """The cluster that `scale-rlhf run` would start, ended afterwards with all its processes."""
    from scale_rlhf.cluster.processes import ProcessWatch
    from scale_rlhf.cluster.ray_cluster import session

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with ProcessWatch(every_seconds=5.0) as watch, session(run, watch):
        yield
