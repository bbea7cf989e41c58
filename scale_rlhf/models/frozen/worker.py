"""One process of a replica: it holds the model, or its share of it, and makes the forwards it is told to."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from scale_rlhf.cluster.device import device
from scale_rlhf.models.frozen.sharded import load_sharded
from scale_rlhf.models.frozen.work import Work
from scale_rlhf.telemetry import logs
from scale_rlhf.training.process_group import meeting_place


class FrozenWorker:
    """A Ray actor: rank `rank` of the `world` processes that hold one copy of the model.

    The model runs in a thread of its own, so that the actor takes calls while it computes.
    """

    def __init__(self, work: Work, dtype: str, rank: int, world: int):
        self.work, self.dtype, self.rank, self.world = work, dtype, rank, world
        self.model: nn.Module | None = None
        self._listener: socket.socket | None = None  # rank 0's, until the ranks have met
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def rendezvous(self) -> tuple[str, int]:
        """(address, port) where the ranks of this replica meet; asked of rank 0, which holds the port until then."""
        import ray

        address = ray.util.get_node_ip_address()
        self._listener = meeting_place(address)
        return address, self._listener.getsockname()[1]

    async def load(self, address: str, port: int) -> int:
        """Load the model; with several ranks, all at once, each its share. Returns the parameters that this process holds."""
        self.model = await self.in_thread(self._load, address, port)
        parameters = sum(held(parameter) for parameter in self.model.parameters())
        logs.LOGGER.info("holds %d parameters of %s", parameters, self.work)
        return parameters

    async def forward(self, items: Sequence[Any] | None) -> list[Any]:
        """One forward. items: None for a filler, whose result is dropped."""
        return await self.in_thread(self._forward, items)

    async def in_thread(self, call: Callable, *arguments: Any) -> Any:
        """`call(*arguments)` in the model's thread, after what was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _load(self, address: str, port: int) -> nn.Module:
        if self.world > 1:
            return load_sharded(self.work.load, rank=self.rank, world=self.world, address=address, port=port, dtype=self.dtype,
                                listener=self._listener)
        return self.work.load().to(device()).eval()

    def _forward(self, items: Sequence[Any] | None) -> list[Any]:
        with torch.no_grad():  # not inference_mode: ZeRO-3 frees and gathers parameters in place
            if items is None:
                self.work.compute(self.model, [self.work.filler()])
                return []
            return self.work.compute(self.model, items)


def held(parameter: nn.Parameter) -> int:
    """Elements of a parameter that lie in this process: under ZeRO-3 its share, and the whole where it is kept gathered."""
    share = getattr(parameter, "ds_tensor", None)
    return parameter.numel() + (0 if share is None else share.numel())
