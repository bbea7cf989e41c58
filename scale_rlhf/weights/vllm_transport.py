"""vLLM's own GPU transports, nccl and ipc, driven from the policy's ranks. Written to the library's documented use;
not run on hardware (see docs/gpu.md).
"""

from typing import Any

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from scale_rlhf.cluster.device import device
from scale_rlhf.weights.publisher import Opening, WholeWeights, fingerprints
from scale_rlhf.weights.verify import NUMBERS


class Source(WeightSource):
    """ZeRO-aware: vLLM's own ModuleSource would send the empty shards of ZeRO 3."""

    def __init__(self, weights: WholeWeights):
        self.weights = weights

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, getattr(torch, dtype), shape) for name, dtype, shape, _ in self.weights.metadata()]

    def __iter__(self):
        return iter(self.weights)


class EngineClient:
    """The four calls that vLLM's trainer side makes, to several engine actors; each engine's ranks follow the last's."""

    def __init__(self, engines: list, ranks: int):
        self.engines, self.ranks, self.version = engines, ranks, 0
        self.fingerprints: dict[str, list[float]] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.engines]
        for number, info in enumerate(infos):
            if "rank_offset" in info:
                info["rank_offset"] = 1 + number * self.ranks
        self._all("begin_transfer", infos)

    def start_weight_update(self) -> None:
        self._all("freeze", [None] * len(self.engines))

    def update_weights(self, update_info: Any) -> None:
        self._all("receive", [update_info] * len(self.engines))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._all("thaw", [self.version] * len(self.engines), self.fingerprints)

    def _all(self, method: str, arguments: list, *more: Any) -> None:
        import ray

        ray.get([getattr(engine, method).remote(*([] if a is None else [a]), *more)
                 for engine, a in zip(self.engines, arguments, strict=True)])


class VllmTransport:
    """Its `publish` drives the engines, and returns when they have the version."""

    def __init__(self, backend: str, weights: WholeWeights, opening: Opening):
        self.weights, self.opening = weights, opening
        handles, ranks = opening.engines
        self.client = EngineClient(handles, ranks)
        world = 1 + ranks * len(handles)
        info = _nccl(opening.rank, opening.address, world) if backend == "nccl" else _ipc(opening.rank)
        self.trainer = WeightTransferTrainerFactory.trainer_init(info, client=self.client, source=Source(weights))

    def publish(self, version: int) -> None:
        self.client.version, self.client.fingerprints = version, self._fingerprints()
        self.trainer.send_weights()

    def close(self) -> None:
        self.trainer.shutdown()

    def _fingerprints(self) -> dict[str, list[float]]:
        """Of the whole tensors: each rank's part added up. Empty where nobody asked."""
        found = fingerprints(self.weights, self.opening)
        if self.opening.verify is None:
            return found
        names = [name for name, *_ in self.weights.metadata()]
        sums = torch.tensor([found.get(name, [0.0] * (NUMBERS + 1)) for name in names], dtype=torch.float64, device=device())
        torch.distributed.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))


def _nccl(rank: int, address: tuple[str, int], world: int):
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(master_address=address[0], master_port=address[1], world_size=world, rank=rank)


def _ipc(rank: int):
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return IPCTrainerInitInfo(rank=rank)
