"""Weights over the network, between hosts without GPUs: rank 0 of the policy sends, every worker of every engine receives.

A gloo group of its own that meets at a store on the sender's node. A version is one run of bytes (the same as in
shared memory) that goes in buckets; checksums come with the manifest. Every wait ends at the deadline, and the
sender's error says which worker took how much.
"""

import socket
import threading
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo, TCPStore

from scale_rlhf.errors import RunError

BUCKET = 64 << 20  # bytes
LOOPBACK = "127.0.0.1"


class Sender:
    """Rank 0. Meets the receivers in the background, and sends in the background: one version at a time."""

    def __init__(self, address: str, receivers: int, seconds: float):
        """address: of this node, on which the store listens. receivers: workers of all engines. seconds: deadline of a send."""
        self.seconds, self.receivers = seconds, receivers
        listener = socket.create_server((address, 0))
        self.meeting = {"address": address, "port": listener.getsockname()[1], "world": 1 + receivers, "seconds": seconds}
        self.store = TCPStore(address, self.meeting["port"], is_master=True, wait_for_workers=False,
                              timeout=timedelta(seconds=seconds), master_listen_fd=listener.detach())
        self._joined = _in_background(lambda: _group(self.store, 0, 1 + receivers, address, seconds))
        self._sent: Future | None = None

    def send(self, version: int, memory: np.ndarray) -> None:
        """Start sending. The memory must stay as it is until `wait`."""
        self._sent = _in_background(lambda: self._send(version, memory))

    def wait(self) -> None:
        """Until what is being sent has left. Raises RunError that names who did not take it."""
        if self._sent is not None:
            sent, self._sent = self._sent, None
            sent.result()

    def _send(self, version: int, memory: np.ndarray) -> None:
        try:
            group = self._joined.result(self.seconds)
            for bucket in _buckets(memory):
                _broadcast(group, bucket)
        except Exception as error:
            raise RunError(f"weights: version {version} did not reach every engine within {self.seconds:g} s: "
                           f"{self._late(version, len(memory))}") from error

    def _late(self, version: int, size: int) -> str:
        buckets = -(-size // BUCKET)
        taken = {rank: self.store.add(_taken(version, rank), 0) for rank in range(1, 1 + self.receivers)}
        late = [f"worker {rank - 1} of the engines took {count} of {buckets} buckets"
                for rank, count in taken.items() if count < buckets]
        return "; ".join(late) or "all took it, but the last to end was too late"


class Receiver:
    """A worker of an engine."""

    def __init__(self, address: str, port: int, world: int, rank: int, bind: str, seconds: float):
        """address, port: of the sender's store. bind: an address of this node that the others reach."""
        self.rank = rank
        self.store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
        self.group = _group(self.store, rank, world, bind, seconds)
        self.memory = np.empty(0, dtype=np.uint8)

    def receive(self, version: int, size: int) -> np.ndarray:
        """A version's bytes, in memory that is used again for the next. Raises RunError when they come too late."""
        if len(self.memory) != size:
            self.memory = np.zeros(size, dtype=np.uint8)
        try:
            for bucket in _buckets(self.memory):
                _broadcast(self.group, bucket)
                self.store.add(_taken(version, self.rank), 1)
        except RuntimeError as error:
            raise RunError(f"weights: version {version} did not come from the policy: {error}") from error
        return self.memory


def _group(store: TCPStore, rank: int, world: int, bind: str, seconds: float) -> ProcessGroupGloo:
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname=bind)]
    options._timeout = timedelta(seconds=seconds)
    return ProcessGroupGloo(store, rank, world, options)


def _broadcast(group: ProcessGroupGloo, bucket: torch.Tensor) -> None:
    options = BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    group.broadcast([bucket], options).wait()


def _buckets(memory: np.ndarray) -> list[torch.Tensor]:
    return list(torch.from_numpy(memory).split(BUCKET))


def _taken(version: int, rank: int) -> str:
    return f"taken/{version}/{rank}"


def _in_background(work: Any) -> Future:
    # Not an executor's thread: the interpreter waits for those at its end, and a send may wait for its deadline.
    result: Future = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it travels to whoever asks for the result
            result.set_exception(error)

    threading.Thread(target=run, daemon=True, name="weights-broadcast").start()
    return result
