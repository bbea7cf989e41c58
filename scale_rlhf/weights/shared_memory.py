"""Weights on one host: the learner's ranks copy a version into shared memory, engines load it from there.

Two files take turns, so that a version stays whole while engines still read it and the learner already
writes the next. Files lie in /dev/shm under a prefix that carries the run's tag, and go when a publisher closes.
Everybody keeps them mapped between versions: the pages are touched for the first time once, not at every update.
"""

import glob
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import torch

from scale_rlhf.disk import writing
from scale_rlhf.errors import RunError
from scale_rlhf.weights import copying
from scale_rlhf.weights.manifest import Manifest, Metadata, Piece, TensorPlace, lay_out

FOLDER = Path("/dev/shm")
PREFIX = "scale-rlhf-"


def remove_published(tag: str) -> None:
    """Remove what a run of that tag has left on this host."""
    for path in FOLDER.glob(f"{PREFIX}{glob.escape(tag)}-weights-*"):
        path.unlink(missing_ok=True)


def remove_published_by_the_dead(run: str) -> None:
    """Remove what runs of that name have left whose controller is gone: a process that was killed removes nothing."""
    for path in FOLDER.glob(f"{PREFIX}{glob.escape(run)}-*-weights-*"):
        owner = path.name.removeprefix(f"{PREFIX}{run}-").split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            path.unlink(missing_ok=True)


class SharedFiles:
    """The learner's two files, mapped for writing. Every rank of the policy opens them; the first to come makes them."""

    def __init__(self, tag: str, size: int):
        """tag: the same on every rank. size: bytes of a version. Raises RunError where shared memory is too small."""
        self.paths = [FOLDER / f"{PREFIX}{tag}-weights-{side}" for side in (0, 1)]
        self.size = size
        self.turn = 0
        there = os.statvfs(FOLDER)
        self.free = there.f_bavail * there.f_frsize  # bytes, before any of it is ours
        self.maps = [self._map(path) for path in self.paths]

    def next(self) -> tuple[mmap.mmap, str]:
        """Memory and path for the next version."""
        side, self.turn = self.turn, 1 - self.turn
        return self.maps[side], str(self.paths[side])

    def close(self) -> None:
        """Remove the files; memory that an engine has mapped lives until it lets go."""
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _map(self, path: Path) -> mmap.mmap:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size != self.size:
                os.ftruncate(descriptor, self.size)
            os.posix_fallocate(descriptor, 0, self.size)  # fails here where memory is short, not with a signal when written to
            return mmap.mmap(descriptor, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as error:
            self.close()
            raise RunError(f"weights: {FOLDER} has {self.free / 1e6:.1f} MB left, and two versions take "
                           f"{2 * self.size / 1e6:.1f} MB. Make it larger (docker: --shm-size), lower cluster.object_store_gb, "
                           "or give rollout.weight_transfer=network, which needs none of it") from error
        finally:
            os.close(descriptor)


class SharedMemoryPublisher:
    """One process that publishes whole tensors. They come in an order and with sizes that rarely change."""

    def __init__(self, tag: str):
        self.tag = tag
        self.files: SharedFiles | None = None

    def publish(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]], metadata: Metadata) -> Manifest:
        """Copy a version and describe it. metadata: of each tensor, in order."""
        places, total = lay_out(metadata)
        if self.files is None or self.files.size != total:
            self.close()
            self.files = SharedFiles(self.tag, total)
        memory, path = self.files.next()
        return Manifest(version, path, places, list(write_all(memory, places, tensors)))

    def close(self) -> None:
        """Remove the files."""
        if self.files is not None:
            self.files.close()


def write_all(memory: Any, places: Iterable[TensorPlace], tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterable[Piece]:
    """Copy tensors to their places, as they come."""
    for place, (name, tensor) in zip(places, tensors, strict=True):
        if name != place.name:
            raise RunError(f"weights: {name} came where {place.name} was declared")
        yield copying.write(memory, place.offset, tensor)


class Reader:
    """An engine's side: the learner's files, mapped for reading when they are first named."""

    def __init__(self):
        self._maps: dict[str, tuple[tuple[int, int], mmap.mmap]] = {}

    def memory(self, path: str) -> mmap.mmap:
        """The file's bytes. A file that was made anew under the same name is mapped anew."""
        found = os.stat(path)
        identity = (found.st_ino, found.st_size)
        if path not in self._maps or self._maps[path][0] != identity:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
                self._maps[path] = identity, mmap.mmap(descriptor, found.st_size, flags=flags, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
        return self._maps[path][1]
