"""What runs inside vLLM's worker process: a weight-transfer engine that loads what the policy published on a CPU host.

vLLM imports this module in the worker because `WorkerExtension` is named as `worker_extension_cls`; the import
registers the engine under its name, beside vLLM's own nccl and ipc. An update has two parts: staging, in a thread
while decoding goes on (bytes arrive, checksums are verified), and the reload, for which decoding stops.
"""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

from scale_rlhf.telemetry import logs
from scale_rlhf.weights import copying
from scale_rlhf.weights.adapter import Adapter, merged
from scale_rlhf.weights.choice import HOST
from scale_rlhf.weights.heap import keep_freed_memory
from scale_rlhf.weights.manifest import Piece, Source, TensorPlace, version_size
from scale_rlhf.weights.network import Fetcher
from scale_rlhf.weights.shared_memory import Reader
from scale_rlhf.weights.vllm_fingerprints import fingerprints


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Empty: every update says where its bytes are."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The version that was staged."""

    version: int


class HostEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Weights from host memory: shared with the policy, or fetched from it."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.reader, self.fetcher = Reader(), Fetcher()
        self.staging: threading.Thread | None = None

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        pass

    def stage(self, manifest: dict[str, Any]) -> None:
        """Begin to bring a version's bytes here. manifest: weights.manifest.Manifest as a dict."""
        self.outcome: dict[str, Any] | None = None
        self.staging = threading.Thread(target=self._stage, args=(manifest,), daemon=True, name="weights-stage")
        self.staging.start()

    def _stage(self, manifest: dict[str, Any]) -> None:
        started = time.perf_counter()
        try:
            version, path = manifest["version"], manifest["path"]
            places, pieces = [TensorPlace(**p) for p in manifest["tensors"]], [Piece(**p) for p in manifest["pieces"]]
            if path:
                memory = self.reader.memory(path)
            else:
                sources = [Source(**source) for source in manifest["sources"]]
                memory = self.fetcher.fetch(version, version_size(places), sources, manifest["seconds"])
            copying.verify(memory, pieces, places, path or "what came over the network")
            adapter = manifest.get("adapter")
            self.staged = version, memory, places, adapter and Adapter(**adapter)
            self.outcome = {"seconds": time.perf_counter() - started, "failure": None}
        except Exception as error:  # noqa: BLE001 - the engine actor asks for it, and raises
            self.outcome = {"seconds": time.perf_counter() - started, "failure": str(error)}

    def start_weight_update(self) -> None:
        # The CPU backend prepacks linear weights: a plain load_weights has nothing to load into.
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        # Not the base class's: it synchronises an accelerator, and a CPU has none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        version, memory, places, adapter = self.staged
        if version != update_info.version:
            raise RuntimeError(f"weights: version {update_info.version} was asked for and version {version} was staged")
        tensors = copying.tensors(memory, places)
        self.model.load_weights(merged(self._base(), tensors, adapter, self.device) if adapter else tensors)
        logs.at_step(version + 1)

    def _base(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What this engine started with, from its files: mapped, not read into memory of its own, and in the system's cache from
        the second time on. The model in here is packed, and has long had something added.
        """
        loader = DefaultModelLoader(replace(self.vllm_config.load_config, use_tqdm_on_load=False))
        return loader.get_all_weights(self.model_config, self.model)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        refresh_output_heads(self.model)

    def shutdown(self) -> None:
        pass


def refresh_output_heads(model: torch.nn.Module) -> None:
    """Pack tied output heads again.

    With tied embeddings the reload fills the embedding but leaves the head's packed copy as it was, without
    a word: log-probabilities are then off by some tenths. An untied head is loaded and packed like any layer.
    """
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    embeddings = [module.weight for module in model.modules()
                  if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)]
    for head in heads:
        if any(head.weight is weight for weight in embeddings):
            head.quant_method.process_weights_after_loading(head)


if logs.WHO in os.environ:  # in a run: this is a child of the engine's actor
    logs.mark_lines()
if current_platform.is_cpu():
    keep_freed_memory()
if HOST not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(HOST, HostEngine)


class WorkerExtension:
    """Named in the engine's arguments: vLLM imports this module before it makes the transfer engine, and gives these
    methods to its worker, for `collective_rpc`.
    """

    def stage_weights(self, manifest: dict[str, Any]) -> None:
        """Begin staging; returns at once."""
        self.weight_transfer_engine.stage(manifest)

    def weights_staged(self) -> dict[str, Any] | None:
        """None while staging goes on; then its "seconds" and "failure" (None, or what went wrong)."""
        return self.weight_transfer_engine.outcome

    def weight_fingerprints(self, names: list[str]) -> dict[str, list[float]]:
        """This rank's part of what its layers compute; see weights.verify. names: of the learner's tensors."""
        return fingerprints(self.model_runner.model, set(names))
