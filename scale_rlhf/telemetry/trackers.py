"""Weights & Biases and MLflow, where `telemetry` names them: what a stage logs under STAGE/KEY, and the configuration.

No secret is handed over: addresses lose their passwords, and neither environment, arguments, code nor output is sent. Lines are
sent in a thread, a bounded number at once: a tracker that is slow or away loses lines, and never stops a run.
"""

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.run_folder import RunFolder, write_atomically
from scale_rlhf.redaction import redacted, without_secrets

WAITING = 1000  # lines that may wait to be sent
LAST_WORDS = 60.0  # seconds, at the end of a run, for what waits


def trackers(config: RunConfig, folder: RunFolder) -> list["Tracker"]:
    """Those that the configuration names, begun. RunError where one is not installed or cannot be reached."""
    named = (("wandb", Wandb, config.telemetry.wandb), ("mlflow", Mlflow, config.telemetry.mlflow))
    return [Tracker(name, _begun(name, kind, config, folder)) for name, kind, section in named if section]


class Tracker:
    """A sink that hands lines to a tracker in a thread of its own."""

    def __init__(self, name: str, tracker: Any):
        self.name, self.tracker, self.lost = name, tracker, 0
        self._lines: queue.Queue = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._send, name=name, daemon=True)
        self._thread.start()

    def begin(self, stage: str, steps: int | None) -> None:
        self._put(lambda: self.tracker.begin(stage))

    def log(self, stage: str, step: int, values: Mapping[str, float | None]) -> None:
        numbers = {f"{stage}/{key}": float(value) for key, value in values.items() if value is not None}
        self._put(lambda: self.tracker.log(stage, step, numbers))

    def close(self, failed: bool) -> None:
        self._put(lambda: self.tracker.close(failed))
        self._put(None)
        self._thread.join(LAST_WORDS)
        if self.lost or self._thread.is_alive():
            _warn(f"telemetry.{self.name}: {self.lost + self._lines.qsize()} lines were not sent; metrics/*.jsonl have them all")

    def _put(self, call: Callable[[], None] | None) -> None:
        try:
            self._lines.put(call, timeout=0 if call else LAST_WORDS)
        except queue.Full:
            self.lost += 1

    def _send(self) -> None:
        while (call := self._lines.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run goes on
                if not self.lost:
                    _warn(without_secrets(f"telemetry.{self.name}: {type(error).__name__}: {error}; the run goes on"))
                self.lost += 1


class Wandb:
    """One run of Weights & Biases for all stages; a resumed run goes on in it. WANDB_API_KEY or ~/.netrc have the key."""

    def __init__(self, config: RunConfig, folder: RunFolder):
        import wandb

        section = config.telemetry.wandb
        quiet = wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True, x_disable_meta=True,
                               x_disable_stats=True)
        self.run = wandb.init(
            project=section.project, entity=section.entity, mode=section.mode, name=folder.name, id=_id(folder), resume="allow",
            dir=str(folder.path), config=redacted(config.model_dump(mode="json")), settings=quiet,
        )

    def begin(self, stage: str) -> None:
        self.run.define_metric(f"{stage}/step")  # stages count their steps each from 1, and go back to checkpoints
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers | {f"{stage}/step": step})

    def close(self, failed: bool) -> None:
        import wandb

        self.run.finish(exit_code=int(failed))
        wandb.teardown()  # its service is a process


class Mlflow:
    """One run of MLflow for all stages; a resumed run goes on in it. MLFLOW_TRACKING_USERNAME and _PASSWORD are its own."""

    def __init__(self, config: RunConfig, folder: RunFolder):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        section, self.metric, known = config.telemetry.mlflow, Metric, folder.path / "mlflow.json"
        self.client = MlflowClient(section.tracking_uri)
        if known.exists():
            self.id = json.loads(known.read_text())["run_id"]
            self.client.update_run(self.id, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name(section.experiment)
        number = experiment.experiment_id if experiment else self.client.create_experiment(section.experiment)
        self.id = self.client.create_run(number, run_name=folder.name).info.run_id
        write_atomically(known, json.dumps({"run_id": self.id}) + "\n")
        flat = [Param(key, value) for key, value in _flat(redacted(config.model_dump(mode="json")))]
        for place in range(0, len(flat), 100):  # that many it takes at once
            self.client.log_batch(self.id, params=flat[place:place + 100])

    def begin(self, stage: str) -> None:
        self.client.set_tag(self.id, "stage", stage)

    def log(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[self.metric(key, value, now, step) for key, value in numbers.items()])

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


def _begun(name: str, kind: type, config: RunConfig, folder: RunFolder) -> Any:
    try:
        return kind(config, folder)
    except Exception as error:
        raise RunError(f"telemetry.{name}: it cannot be begun: {type(error).__name__}: {error}. Mend it, or leave "
                       f"telemetry.{name} out") from error


def _warn(line: str) -> None:
    print(f"scale-rlhf: {line}", file=sys.stderr, flush=True)


def _id(folder: RunFolder) -> str:
    """The same for a run that is resumed, another for any other."""
    which = f"{folder.state()['created']} {folder.path.absolute()}"
    return f"{folder.name[:80]}-{xxhash.xxh3_64_hexdigest(which.encode())}"


def _flat(values: dict, prefix: str = "") -> list[tuple[str, str]]:
    flat = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(f"{prefix}{key}", str(value)[:500])]
    return flat
