"""The rollout actor: one vLLM AsyncLLM, one request a sample, continuous batching.

Weights come through vLLM's own weight-transfer interface. An update freezes running requests, loads, clears the
cache and lets them go on: every token says which version it was sampled from.
"""

import asyncio
import time
from typing import Any

import numpy as np

from scale_rlhf.config.schema import RolloutSection
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.rollout.sampling import sample_seed, sampling_params, to_sample

WORKER_EXTENSION = "scale_rlhf.weights.vllm_worker.WorkerExtension"


class RolloutEngine:
    """Runs as a Ray actor (asyncio: many `generate` calls at once)."""

    def __init__(self, rollout: RolloutSection, model: str, *, seed: int, end_token_ids: list[int], max_tokens: int,
                 transfer: str, trust_remote_code: bool = False):
        self.rollout, self.model, self.seed, self.end_token_ids = rollout, model, seed, end_token_ids
        self.max_tokens, self.transfer, self.trust_remote_code = max_tokens, transfer, trust_remote_code
        self.tokens = 0
        self.requests = 0
        self.busy_since: float | None = None
        self.busy_seconds = 0.0
        self.running = 0

    async def start(self) -> None:
        """Load the model; the engine then serves version 0."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments()))
        await self.engine.update_weight_version("0")
        if self.transfer == "shared_memory":
            await self.begin_transfer({})

    def _arguments(self) -> dict[str, Any]:
        from vllm.platforms import current_platform

        rollout = self.rollout
        arguments = {
            "model": self.model, "dtype": rollout.dtype, "seed": self.seed, "max_model_len": self.max_tokens,
            "tensor_parallel_size": rollout.tensor_parallel, "max_num_seqs": rollout.max_concurrent,
            "skip_tokenizer_init": not rollout.stop, "generation_config": "vllm", "trust_remote_code": self.trust_remote_code,
            "logprobs_mode": "processed_logprobs", "enable_prefix_caching": False,
            "weight_transfer_config": {"backend": self.transfer}, "worker_extension_cls": WORKER_EXTENSION,
            "disable_log_stats": True, "enable_log_requests": False,
        }
        if current_platform.is_cpu():
            # Without an explicit size the CPU backend reserves a share of the machine's memory, and fails.
            # A request with a seed whose prefill is split kills it ("CPU Generator does not use offset").
            arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": int(rollout.kv_cache_gb * 2**30),
                          "enable_chunked_prefill": False, "max_num_batched_tokens": max(self.max_tokens, 4096)}
        else:
            arguments |= {"gpu_memory_utilization": rollout.gpu_memory_utilization}
        return arguments

    async def generate(self, prompt: Prompt, *, temperature: float | None = None, max_tokens: int | None = None) -> Sample:
        """Answer one prompt. The tokens depend on the weights, the run's seed and prompt.index alone."""
        params = sampling_params(self.rollout, self.end_token_ids, sample_seed(self.seed, prompt.index),
                                 temperature=temperature, max_tokens=max_tokens)
        self.requests += 1
        self._enter()
        try:
            final = None
            tokens = {"prompt_token_ids": [int(token) for token in prompt.token_ids]}
            async for output in self.engine.generate(tokens, params, request_id=f"{prompt.index}-{self.requests}"):
                final = output
            sample = to_sample(prompt, final)
            self.tokens += len(sample.response_ids)
            return sample
        finally:
            self._leave()

    async def score(self, sample: Sample) -> tuple[np.ndarray, int]:
        """The log-probabilities, at temperature 1, that the engine gives to a response it is shown: float32 [response
        tokens], and the version of the weights that computed them.
        """
        from vllm import SamplingParams

        self.requests += 1
        params = SamplingParams(max_tokens=1, temperature=1.0, seed=0, prompt_logprobs=0, logprobs=0, detokenize=False)
        prompt = {"prompt_token_ids": [int(token) for token in [*sample.prompt.token_ids, *sample.response_ids]]}
        final = None
        async for output in self.engine.generate(prompt, params, request_id=f"score-{self.requests}"):
            final = output
        chosen = list(zip(final.prompt_logprobs, final.prompt_token_ids, strict=True))[len(sample.prompt.token_ids):]
        versions = to_sample(sample.prompt, final).versions
        return np.asarray([entry[token].logprob for entry, token in chosen], dtype=np.float32), int(versions[0])

    async def begin_transfer(self, init_info: dict[str, Any]) -> None:
        """Make the transport ready; nccl meets the trainer here."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self.engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def load(self, version: int, update_info: dict[str, Any]) -> float:
        """Take a published version; requests that run are frozen meanwhile and go on with it. Seconds it took."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        started = time.monotonic()
        await self.freeze()
        await self.engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))
        await self.thaw(version)
        return time.monotonic() - started

    async def freeze(self) -> None:
        """Stop decoding, keep the requests, open an update."""
        await self.engine.pause_generation(mode="keep", clear_cache=True)
        await self.engine.start_weight_update()

    async def receive(self, update_info: dict[str, Any]) -> None:
        """One payload of an update that the trainer drives (nccl, ipc)."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self.engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    async def thaw(self, version: int) -> None:
        """Close the update, label what follows with `version`, go on decoding."""
        await self.engine.finish_weight_update(str(version))
        await self.engine.resume_generation()

    async def version(self) -> int:
        return int(await self.engine.get_weight_version())

    async def metrics(self) -> dict[str, float]:
        """Tokens and busy seconds since the last call."""
        now = time.monotonic()
        busy = self.busy_seconds + (now - self.busy_since if self.busy_since is not None else 0.0)
        taken = {"tokens": float(self.tokens), "busy_seconds": busy, "running": float(self.running)}
        self.tokens, self.busy_seconds = 0, 0.0
        self.busy_since = now if self.busy_since is not None else None
        return taken

    async def close(self) -> None:
        self.engine.shutdown()
        await asyncio.sleep(0)

    def _enter(self) -> None:
        self.running += 1
        if self.busy_since is None:
            self.busy_since = time.monotonic()

    def _leave(self) -> None:
        self.running -= 1
        if self.running == 0 and self.busy_since is not None:
            self.busy_seconds += time.monotonic() - self.busy_since
            self.busy_since = None
