"""What is known of a PPO run at this moment, though no step ends: who serves, since when, how full the queues are, what failed.

Written to status.json every two seconds, for `scale-rlhf top`, and to Ray's gauges; faults also to faults.jsonl, which keeps them
when the controller itself is killed.
"""

import asyncio
import json
import os
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration import parity
from scale_rlhf.orchestration.health import State
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.redaction import printable, without_secrets
from scale_rlhf.telemetry import instruments
from scale_rlhf.telemetry.metrics import read_jsonl
from scale_rlhf.telemetry.spans import busy

if TYPE_CHECKING:
    from scale_rlhf.orchestration.loop import Loop, Step
    from scale_rlhf.orchestration.roles import Roles

EVERY = 2.0  # seconds
STARTING = "starting"  # of roles that are not ready together yet
_NUMBERS = {state: float(number) for number, state in enumerate([*State, STARTING])}  # as the catalogue's `state` says


class Watch:
    """Follows one attempt after the other; `run` looks until it is cancelled."""

    def __init__(self, config: RunConfig, folder: RunFolder):
        self.config, self.folder = config, folder
        self.roles: Roles | None = None
        self.loop: Loop | None = None
        self.since = time.time()  # when this attempt began
        for role, count in Counter(_role(fault["who"]) for fault in read_jsonl(folder.faults)).items():
            instruments.record("restarts", count, role=role)
        instruments.record("parity_gap_limit", parity.limit(config))
        instruments.record("kl_limit", config.limits.kl)
        instruments.record("kl_target", config.ppo.kl_target)

    def follow(self, roles: "Roles", loop: "Loop | None" = None) -> None:
        """These roles, and their loop once there is one."""
        if roles is not self.roles:
            self.since = time.time()
        self.roles, self.loop = roles, loop

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Once, now."""
        status = self.status()
        for name, state, since in status["members"]:
            labels = dict(zip(("role", "replica"), name.split("/"), strict=True))
            instruments.record("up", float(state == State.HEALTHY), **labels)
            instruments.record("state", _NUMBERS[state], **labels)
            instruments.record("state_since_timestamp_seconds", since, **labels)
        for what, number in status["queue"].items():
            instruments.record_line(f"queue/{what}", number, "ppo")
        await asyncio.to_thread(self._write, status)

    def status(self) -> dict[str, Any]:
        """members: [name, state, since] of every process that serves or trains; since: seconds since the epoch, as all times."""
        queue, loop = {}, self.loop
        if loop is not None:
            queue = {"in_flight": float(loop.admission.in_flight), "buffer": float(loop.buffer.ready),
                     "filtered": float(loop.admission.filtered)}
        return {"at": time.time(), "pid": os.getpid(), "members": self._members(), "queue": queue}

    def step(self, step: "Step") -> None:
        """What each process did in a step that has ended."""
        now = time.time()
        start = now - step.metrics["time/step"]
        for name, spans in step.lanes.items():
            role, _, replica = name.partition("/")
            if replica:
                idle = 1.0 - busy(spans, start, now) / max(now - start, 1e-9)
                instruments.record("replica_idle_share", idle, role=role, replica=replica)

    def fault(self, who: str, why: str) -> None:
        """Something failed and is started again."""
        instruments.record("restarts", 1, role=_role(who))
        line = {"at": time.time(), "who": who, "why": printable(without_secrets(why))}
        with suppress(OSError), open(self.folder.faults, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _members(self) -> list[tuple[str, str, float]]:
        if self.roles is None:
            return []
        found, ahead = [], time.time() - time.monotonic()
        for role in self.roles.all():
            if (health := getattr(role, "health", None)) is None:  # a service, or a role that is only beginning
                continue
            for name, state, since in zip(health.names, health.states, health.since, strict=True):
                found.append((name, str(state), since + ahead) if self.roles.ready else (name, STARTING, self.since))
        return found

    def _write(self, status: dict[str, Any]) -> None:
        """Beside, then renamed: whoever reads sees a whole one. A disk that is full is told of by what must be written."""
        beside = self.folder.status.with_name(f".{self.folder.status.name}")
        with suppress(OSError):
            beside.write_text(json.dumps(status), encoding="utf-8")
            os.replace(beside, self.folder.status)


def _role(who: str) -> str:
    """"rollout" of "rollout engine 3"; "run" where all roles start again."""
    return "run" if who.startswith("the run") else who.split()[0]
