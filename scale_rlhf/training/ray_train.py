"""One training under Ray Train, run beside the driver's own thread so that progress can be shown and Ctrl-C works."""

from __future__ import annotations

import os
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from scale_rlhf.cluster.device import environment
from scale_rlhf.errors import RunError, UserError

if TYPE_CHECKING:
    from scale_rlhf.training.supervised import Job

_LAST_LINES = 12


class RayTrainRun:
    """A `TorchTrainer` whose workers run supervised_worker.work(job). Starts at once; Ray must be up.

    Ray Train puts a handler of its own on Ctrl-C when it runs in the main thread, and leaves it there; in a thread
    it does not, so an interrupt reaches the caller, whose ray.shutdown() ends the workers.
    """

    def __init__(self, job: Job, storage: Path, start_seconds: float):
        self._result = self._error = None
        self._thread = threading.Thread(target=self._run, args=(job, storage, start_seconds), daemon=True, name="ray-train")
        self._thread.start()

    def finished(self, seconds: float) -> bool:
        """Waits up to `seconds`; True once the training has ended, well or not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self, stage: str) -> dict[str, float]:
        """What rank 0 returned. A worker's own UserError is raised as it is, any other failure as a RunError."""
        if self._error is not None:
            raise _readable(self._error, stage) from self._error
        return self._result.return_value

    def _run(self, job: Job, storage: Path, start_seconds: float) -> None:
        try:
            self._result = _trainer(job, storage, start_seconds).fit()
        except BaseException as error:  # handed to the caller's thread
            self._error = error


def _trainer(job: Job, storage: Path, start_seconds: float):
    # Read by Ray Train in this process. Without its checkpoints there is nothing to save when a node is taken away, and
    # its patched print() shows what datasets prints to a captured stream.
    os.environ |= {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_seconds),
    }
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        """Without two actors. The detached one that removes placement groups outlives an interrupted run, looks for any Ray on
        this machine, and Ray removes the group of a controller that is gone anyway. That of Ray's datasets imports them for
        seconds while the workers start, and has none to hand out here."""

        def _create_default_callbacks(self):
            left_out = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
            return [one for one in super()._create_default_callbacks() if type(one).__name__ not in left_out]

    from scale_rlhf.training.supervised_worker import work

    section = job.section
    resources = {"CPU": section.cpus} | ({"GPU": section.gpus} if section.gpus else {}) | section.resources
    return Trainer(
        work, train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=section.workers, use_gpu=section.gpus > 0, resources_per_worker=resources,
            label_selector=section.labels or None, placement_strategy=section.placement.upper(),
        ),
        run_config=RunConfig(
            name=storage.name, storage_path=str(storage.parent), logging_config=LoggingConfig(log_level="ERROR"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={"env_vars": environment(section.threads, section.gpus)},
        ),
    )


def _readable(error: BaseException, stage: str) -> UserError:
    failures = getattr(error, "worker_failures", None) or {}
    if not failures:
        return RunError(f"{stage}: Ray Train could not run it: {_tail(str(error) or traceback.format_exception_only(error)[-1])}")
    rank, failure = min(failures.items(), key=lambda item: item[0])
    original = getattr(failure, "_base_exc", failure)
    if isinstance(original, UserError):
        return original
    words = str(failure) if "Traceback" in str(failure) else str(error)
    return RunError(f"{stage}: worker {rank} of the training failed:\n{_tail(words)}")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])
