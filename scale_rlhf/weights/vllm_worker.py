"""What runs inside vLLM's worker process: a weight-transfer engine that loads from shared memory.

vLLM imports this module in the worker because `WorkerExtension` is named as `worker_extension_cls`; the import
registers the engine under its name, beside vLLM's own nccl and ipc.
"""

from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from scale_rlhf.weights.shared_memory import read

NAME = "shared_memory"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Nothing to agree on: every update says where its bytes lie."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """A weights.manifest.Manifest as a dict."""

    version: int
    path: str
    tensors: list[dict]


class SharedMemoryEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        # The CPU backend prepacks linear weights: a plain load_weights has nothing to load into.
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        # Not the base class's: it synchronises an accelerator, and a CPU has none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        self.model.load_weights(read(update_info.path, update_info.tensors))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        refresh_output_heads(self.model)

    def shutdown(self) -> None:
        pass


def refresh_output_heads(model: torch.nn.Module) -> None:
    """Pack the output head again.

    With tied embeddings the reload fills the embedding but leaves the head's packed copy as it was, without
    a word: log-probabilities are then off by some tenths.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


if NAME not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(NAME, SharedMemoryEngine)


class WorkerExtension:
    """Named in the engine's arguments so that vLLM imports this module before it makes the transfer engine."""
