"""The rollout actor: one vLLM AsyncLLM, one request a sample, continuous batching.

Weights come through vLLM's own weight-transfer interface. A version is staged while decoding goes on; then running
samples are frozen (or, when draining, have ended), the weights are loaded, the cache is cleared and decoding goes on:
every token says which version it was sampled from.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_rlhf.cluster.processes import socket_folder
from scale_rlhf.config.schema import OverlapSection, RolloutSection
from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.rollout.gate import DecodeClock, Gate
from scale_rlhf.rollout.sampling import sample_seed, sampling_params, to_sample
from scale_rlhf.telemetry import logs
from scale_rlhf.telemetry.spans import Span, Spans
from scale_rlhf.weights.choice import HOST
from scale_rlhf.weights.verify import differences

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

_LOOK = 0.5  # seconds between looks whether vLLM's process lives
WORKER_EXTENSION = "scale_rlhf.weights.vllm_worker.WorkerExtension"


class RolloutEngine:
    """Runs as a Ray actor (asyncio: many `generate` calls at once)."""

    engine = watching = None  # until it has started

    def __init__(self, rollout: RolloutSection, model: str, *, seed: int, end_token_ids: list[int], max_tokens: int,
                 transfer: str, overlap: OverlapSection | None = None, who: str = "rollout engine",
                 trust_remote_code: bool = False):
        """transfer: vLLM's name of the weight-transfer engine (weights.choice.backend). who: for messages."""
        self.rollout, self.model, self.seed, self.end_token_ids = rollout, model, seed, end_token_ids
        self.max_tokens, self.transfer, self.trust_remote_code = max_tokens, transfer, trust_remote_code
        self.overlap, self.name = overlap or OverlapSection(), who
        self.drains = self.overlap.weight_update == "drain"
        # Draining waits for what runs in vLLM: what waits there for a place would be waited for too.
        self.gate = Gate(rollout.max_concurrent if self.drains else math.inf)
        self.recorded = Spans()
        self.decoding = DecodeClock(self.recorded)
        self.tokens = self.requests = 0
        self.asleep = False

    async def start(self) -> None:
        """Load the model; the engine then serves version 0."""
        # All ranks of an engine are on this host. Left alone, gloo looks for the interface that the host's name means, which
        # takes half a minute a group where nobody knows that name.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ["VLLM_RPC_BASE_PATH"] = str(socket_folder())  # else they lie about in /tmp, for all to reach
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from scale_rlhf.models.loading import check_folder

        check_folder(self.model)  # vLLM would take what is not there for a hub name
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments()))
        self.watching = asyncio.create_task(self._watch())
        await self.engine.update_weight_version("0")
        if self.transfer == HOST:
            await self.begin_transfer({})
        logs.at_step(1)
        logs.LOGGER.info("serves %s", self.model)

    def place(self) -> str:
        """Ray's id of this actor's node."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def _arguments(self) -> dict[str, Any]:
        from vllm.platforms import current_platform

        rollout = self.rollout
        arguments = {
            "model": self.model, "load_format": "safetensors",  # never a pickle
            "dtype": rollout.dtype, "seed": self.seed, "max_model_len": self.max_tokens,
            "tensor_parallel_size": rollout.tensor_parallel, "max_num_seqs": rollout.max_concurrent,
            "skip_tokenizer_init": not rollout.stop, "generation_config": "vllm", "trust_remote_code": self.trust_remote_code,
            "logprobs_mode": "processed_logprobs", "enable_prefix_caching": False,
            "weight_transfer_config": {"backend": self.transfer}, "worker_extension_cls": WORKER_EXTENSION,
            "disable_log_stats": True, "enable_log_requests": False,
            "scheduling_policy": "priority",  # in the order of coming; but a probe does not wait behind a batch
        }
        if current_platform.is_cpu():
            # Without an explicit size the CPU backend reserves a share of the machine's memory, and fails.
            # A request with a seed whose prefill is split kills it ("CPU Generator does not use offset").
            arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": int(rollout.kv_cache_gb * 2**30),
                          "enable_chunked_prefill": False, "max_num_batched_tokens": max(self.max_tokens, 4096)}
            if rollout.tensor_parallel == 1:
                # vLLM would run one rank in a process of its own, for the sake of its OpenMP settings, which come from
                # our environment here: a process and two messages a token less. It turns "uni" into "mp", the name not.
                arguments["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
        else:
            arguments |= {"gpu_memory_utilization": rollout.gpu_memory_utilization, "enable_sleep_mode": rollout.sleep}
        return arguments

    async def generate(self, prompt: Prompt, *, temperature: float | None = None, max_tokens: int | None = None) -> Sample:
        """Answer one prompt. The tokens depend on the weights, the run's seed and prompt.index alone."""
        params = sampling_params(self.rollout, self.end_token_ids, sample_seed(self.seed, prompt.index),
                                 temperature=temperature, max_tokens=max_tokens)
        sample = to_sample(prompt, await self._answer(prompt.token_ids, params, str(prompt.index)))
        self.tokens += len(sample.response_ids)
        return sample

    async def stream(self, prompt: Prompt, *, temperature: float | None = None,
                     max_tokens: int | None = None) -> AsyncIterator[Sample]:
        """The response as far as it is, each time there is more of it; the last is what `generate` gives. Cancelled, it ends."""
        from vllm.sampling_params import RequestOutputKind

        params = sampling_params(self.rollout, self.end_token_ids, sample_seed(self.seed, prompt.index),
                                 temperature=temperature, max_tokens=max_tokens)
        params.output_kind = RequestOutputKind.CUMULATIVE
        length = 0
        async for output in self._outputs(prompt.token_ids, params, str(prompt.index)):
            sample = to_sample(prompt, output)
            self.tokens, length = self.tokens + len(sample.response_ids) - length, len(sample.response_ids)
            yield sample

    async def score(self, sample: Sample) -> tuple[np.ndarray, int]:
        """The log-probabilities, at temperature 1, that the engine gives to a response it is shown: float32 [response
        tokens], and the version of the weights that computed them.
        """
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=1.0, seed=0, prompt_logprobs=0, logprobs=0, detokenize=False)
        shown = [*sample.prompt.token_ids, *sample.response_ids]
        final = await self._answer(shown, params, "score", first=True)
        chosen = list(zip(final.prompt_logprobs, final.prompt_token_ids, strict=True))[len(sample.prompt.token_ids):]
        version = int(final.outputs[0].weight_versions[0].version)
        return np.asarray([entry[token].logprob for entry, token in chosen], dtype=np.float32), version

    async def _answer(self, token_ids: Iterable[int], params: "SamplingParams", name: str, *,
                      first: bool = False) -> "RequestOutput":
        """One request through the gate and vLLM. first: before all that wait for a place."""
        final = None
        async for output in self._outputs(token_ids, params, name, first=first):
            final = output
        return final

    async def _outputs(self, token_ids: Iterable[int], params: "SamplingParams", name: str, *,
                       first: bool = False) -> AsyncIterator["RequestOutput"]:
        self.requests += 1
        request, tokens = f"{name}-{self.requests}", {"prompt_token_ids": [int(token) for token in token_ids]}
        async with self.gate.enter(first=first):
            self.decoding.enter()
            try:
                async for output in self.engine.generate(tokens, params, request_id=request, priority=-int(first)):
                    yield output
            finally:
                self.decoding.leave()

    async def begin_transfer(self, init_info: dict[str, Any]) -> None:
        """Make the transport ready; nccl meets the trainer here."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self.engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def load(self, version: int, update_info: dict[str, Any]) -> dict[str, float]:
        """Stage and take a published version. Returns stage_seconds and stopped_seconds."""
        staged = await self.stage(version, update_info)
        return {"stage_seconds": staged} | await self.take(version)

    async def stage(self, version: int, update_info: dict[str, Any]) -> float:
        """Bring a version's bytes here and verify their checksums, while decoding goes on. Returns the seconds.

        Raises RunError where bytes are not those that were published, or did not come.
        """
        started = time.monotonic()
        self.published = update_info.get("fingerprints") or {}
        manifest = {key: value for key, value in update_info.items() if key != "fingerprints"}
        with self.recorded.span("stage", version=version):
            await self.engine.collective_rpc("stage_weights", args=(manifest,))
            wait = 0.001
            while None in (outcomes := await self.engine.collective_rpc("weights_staged")):
                await asyncio.sleep(wait)
                wait = min(1.5 * wait, 0.05)
        for failure in (outcome["failure"] for outcome in outcomes):
            if failure:
                raise RunError(f"{self.name}: {failure}")
        return time.monotonic() - started

    async def take(self, version: int) -> dict[str, float]:
        """Go over to the staged version. Returns stopped_seconds, in which nothing was decoded."""
        await self.freeze()
        await self.receive({"version": version})
        return {"stopped_seconds": await self.thaw(version)}

    async def sleep(self) -> None:
        """Give up the GPU's memory until the next version: weights go to the host's, the empty cache is dropped."""
        await self.engine.sleep(level=1)
        self.asleep = True

    async def freeze(self) -> None:
        """Stop decoding (when draining, once all running samples have ended), and open an update."""
        if self.drains:
            await self.gate.empty()
        # Not `pause_generation`: it also sleeps for 20 ms after the engine has stopped.
        await self.engine.engine_core.pause_scheduler_async(mode="keep", clear_cache=self.overlap.recompute_cache)
        self.decoding.freeze()
        if self.asleep:
            await self.engine.wake_up(["weights"])
        self.stopped, self.stopped_at = time.monotonic(), self.recorded.clock()
        await self.engine.start_weight_update()

    async def receive(self, update_info: dict[str, Any]) -> None:
        """One payload of an update: the staged version's number, or what a trainer that drives it sends (nccl, ipc)."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self.engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    async def thaw(self, version: int, fingerprints: dict[str, list[float]] | None = None) -> float:
        """Close the update, label what follows with `version`, go on decoding. Returns the seconds since it stopped.

        fingerprints: of the version, where it was not staged.
        """
        await self.engine.finish_weight_update(str(version))
        if self.asleep:
            await self.engine.wake_up(["kv_cache"])
            self.asleep = False
        if self.rollout.verify_weights:
            await self.verify(version, self.published if fingerprints is None else fingerprints)
        await self.engine.resume_generation()
        self.recorded.add("load", self.stopped_at, version=version)
        self.decoding.thaw()
        if self.drains:
            self.gate.open()
        seconds = time.monotonic() - self.stopped
        logs.at_step(version + 1)
        logs.LOGGER.info("holds version %d; decoding stood still for %.3f s", version, seconds)
        return seconds

    async def verify(self, version: int, published: dict[str, list[float]]) -> None:
        """Ask every layer what it computes with. Raises RunError naming the tensors that are not the trainer's."""
        if not published:
            raise RunError(f"{self.name}: version {version} came without fingerprints, and rollout.verify_weights asks for them")
        ranks = await self.engine.collective_rpc("weight_fingerprints", args=(list(published),))
        found: dict[str, list[float]] = {}
        for rank in ranks:
            for name, numbers in rank.items():
                found[name] = [a + b for a, b in zip(found.get(name, [0.0] * len(numbers)), numbers, strict=True)]
        if wrong := differences(published, found, self.rollout.dtype):
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise RunError(f"{self.name}: after the update to version {version}: {'; '.join(wrong[:3])}{more}")

    async def version(self) -> int:
        return int(await self.engine.get_weight_version())

    async def metrics(self) -> dict[str, float]:
        """Since the last call: tokens, and the seconds in which it decoded. Now: samples running and waiting."""
        inside = self.decoding.running
        running = min(inside, self.rollout.max_concurrent)
        taken = {"tokens": float(self.tokens), "busy_seconds": self.decoding.take_busy(), "running": float(running),
                 "waiting": float(inside - running + self.gate.waiting)}
        self.tokens = 0
        return taken

    async def spans(self) -> list[Span]:
        """What it was busy with since the last call: decode, stage, load."""
        self.decoding.cut()
        return self.recorded.take()

    async def _watch(self) -> None:
        """End this process when vLLM's own has died: vLLM fails the samples that run, but a call such as an update of the
        weights would wait for its answer for ever.
        """
        while not self.engine.errored:
            await asyncio.sleep(_LOOK)
        await asyncio.sleep(_LOOK)  # what fails by itself says more than the end of a process
        logs.LOGGER.error("vLLM's engine process has died")
        os._exit(1)

    async def close(self) -> None:
        if self.engine is None:  # it did not come up, and has said why
            return
        if self.watching is not None:
            self.watching.cancel()
        self.engine.shutdown()
        await asyncio.sleep(0)
