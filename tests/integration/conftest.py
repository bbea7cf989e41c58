"""One Ray cluster for all integration tests: two cores that pass for eight, so that several roles fit."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # actors import reward functions from the tests


@pytest.fixture(scope="session")
def cluster():
    import ray

    from scale_rlhf.cluster.device import environment
    from scale_rlhf.cluster.processes import ProcessWatch, end, remove_shared_memory, shared_memory_files

    before = shared_memory_files()
    ray.init(
        address="local", num_cpus=8, num_gpus=0, include_dashboard=False, object_store_memory=300_000_000, log_to_driver=False,
        runtime_env={"env_vars": environment(threads=1)},
    )
    with ProcessWatch(every_seconds=5.0) as watch:
        yield ray
        left = watch.left()
        ray.shutdown()
    end(left)
    # An engine that had to be killed leaves 160 MB of vLLM's there. Published weights are another run's: tests remove theirs.
    published = {path for path in shared_memory_files() if path.name.startswith("scale-rlhf-")}
    remove_shared_memory(before | published)
