"""Checkpoints of a PPO run: whole or absent, each in a folder with the checksums of its files.

    ppo/checkpoints/step-000020/
      policy/  value/       state of training, a file a rank (training/state.py)
      loop.json             where the loop is, and which samples are in flight (loop_state.py)
      samples.safetensors   those of them that are scored
      config.yaml           what made it
      manifest.json         sizes and checksums of all of these; written last

A folder is written beside, under a name that begins with a dot, and renamed once its manifest is on the disk. Ranks
copy their state and go on; files are written behind their back. The folder must be on storage that every rank's node and
the controller see.
"""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from scale_rlhf.config.load import dump
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.disk import writing
from scale_rlhf.errors import DiskError, RunError
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.orchestration import checksums
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.orchestration.roles import Roles
from scale_rlhf.redaction import without_secrets

_UNDER_WAY = "."  # begins the name of a checkpoint that is being written


class Checkpoints:
    """The checkpoints of one run, and the one that is being written. Used from one asyncio loop."""

    def __init__(self, folder: Path, config: RunConfig, prompts: str, clock: Callable[[], float] = time.monotonic):
        """folder: ppo/checkpoints of a run. prompts: fingerprint of the training prompts, see `fingerprint`."""
        self.folder, self.config, self.prompts, self.clock = Path(folder), config, prompts, clock
        self.last = clock()
        self._writing: asyncio.Task | None = None
        self._done: dict[str, float] = {}

    def due(self, version: int) -> bool:
        """Whether checkpoint.save_every asks for one of this version."""
        every = self.config.checkpoint.save_every
        if every is None:
            return False
        number, minutes = int(re.match(r"\d+", str(every))[0]), str(every).endswith("min")
        return self.clock() - self.last >= 60 * number if minutes else version % number == 0

    async def save(self, state: LoopState, roles: Roles, score: float) -> dict[str, float]:
        """Begin a checkpoint; returns once every rank has copied its state, with what it cost and the last one's figures.

        score: mean reward of the step, by which the best is kept. Raises RunError where the last one could not be written.
        """
        began = self.clock()
        finished = await self.finish()
        self.last = began
        folder = self.folder / f"{_UNDER_WAY}{_name(state.version)}"
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        groups = {name: role for name, role in (("policy", roles.policy), ("value", roles.value)) if role}
        await asyncio.gather(*(group.checkpoint(str(folder / name)) for name, group in groups.items()))
        self._writing = asyncio.create_task(self._write(folder, state, groups, score))
        return {"time/checkpoint": self.clock() - began} | finished

    async def finish(self) -> dict[str, float]:
        """Wait for the checkpoint that is being written, if one is. Returns its seconds and gigabytes."""
        if self._writing is not None:
            await self._writing
            self._writing = None
        done, self._done = self._done, {}
        return done

    def look(self) -> None:
        """Raise what the checkpoint that is being written failed with, if it did: not hours later, when the next is due."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def abandon(self) -> None:
        """Give up what is being written: the run it was made of has failed."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None

    def newest(self, tell: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that is whole. A damaged one is named, and the one before it is taken."""
        for path in reversed(_all(self.folder)):
            faults = checksums.faults(path)
            if not faults and checksums.manifest(path)["prompts"] != self.prompts:
                raise RunError(f"{path}: was made with other training prompts than those of this run now: a file of the data "
                               "has changed. Put it back, or begin a new run")
            if not faults:
                return path
            more = f" (and {len(faults) - 1} more)" if faults[1:] else ""
            tell(f"checkpoint {path.name} is damaged and not used: {faults[0]}{more}")
        return None

    async def restore(self, path: Path, roles: Roles, prompts: PromptStream) -> LoopState:
        """Put policy and value model into the state of that checkpoint; returns the loop's. The roles have just started."""
        groups = {name: role for name, role in (("policy", roles.policy), ("value", roles.value)) if role}
        await asyncio.gather(*(group.restore(str(path / name)) for name, group in groups.items()))
        return LoopState.read(path, prompts)

    async def _write(self, folder: Path, state: LoopState, groups: dict, score: float) -> None:
        began, limit = self.clock(), self.config.limits.checkpoint_seconds
        try:
            each = await asyncio.gather(*(group.checkpointed(limit) for group in groups.values()))
            known = {f"{name}/{file}": found for name, files in zip(groups, each, strict=True) for file, found in files.items()}
            await asyncio.to_thread(self._seal, folder, state, known, score)
        except DiskError as error:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # makes room for what there is to say of it
            raise DiskError(f"{error}. The checkpoints before it are whole") from error
        size = sum(file["bytes"] for file in known.values())
        self._done = {"checkpoint/seconds": self.clock() - began, "checkpoint/gb": size / 1e9}

    def _seal(self, folder: Path, state: LoopState, known: checksums.Described, score: float) -> None:
        with writing(folder):
            state.write(folder)
            (folder / "config.yaml").write_text(without_secrets(dump(self.config)))
            checksums.seal(folder, known, version=state.version, run=self.config.run.name, score=score, prompts=self.prompts)
            final = folder.with_name(_name(state.version))
            shutil.rmtree(final, ignore_errors=True)  # of an attempt that was undone
            os.replace(folder, final)
            checksums.sync(self.folder)
        self._prune()

    def _prune(self) -> None:
        """Leave the newest and the best, and nothing half-made."""
        paths, keep = _all(self.folder), self.config.checkpoint
        kept = set(paths[-keep.keep_last:])
        if keep.keep_best:
            kept.add(max(paths, key=lambda path: (_score(path), path.name)))
        for path in [*set(paths) - kept, *self.folder.glob(f"{_UNDER_WAY}step-*")]:
            shutil.rmtree(path, ignore_errors=True)


def discard_after(folder: Path, version: int) -> None:
    """Remove checkpoints of later versions, which a run that goes on from `version` makes again."""
    for path in _all(folder):
        if path.name > _name(version):
            shutil.rmtree(path)


def _name(version: int) -> str:
    return f"step-{version:06d}"


def _all(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in Path(folder).glob("step-*") if path.is_dir())


def _score(path: Path) -> float:
    try:
        return float(checksums.manifest(path)["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return float("-inf")
