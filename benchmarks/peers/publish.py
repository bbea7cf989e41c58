"""Our publishing: a policy group of one rank and an engine that decodes meanwhile; and one Ray call a parameter."""

import asyncio
import os
import time
import uuid
from pathlib import Path

import numpy as np

from benchmarks import runs
from benchmarks.peer import serve
from scale_rlhf.cluster.device import environment
from scale_rlhf.experience.sample import Prompt
from scale_rlhf.rollout.fleet import RolloutFleet
from scale_rlhf.training.group import PolicyGroup
from scale_rlhf.weights.files import tensors

DECODED = 8  # samples that decode while a version comes
RESPONSE = 80  # tokens: longer than any version takes


class Receiver:
    """Takes one parameter a call, and copies it to where the last one was: 400M parameters must fit beside two engines."""

    def __init__(self):
        self.held = np.empty(0, np.float32)

    def take(self, array: np.ndarray) -> None:
        if len(self.held) < array.size:
            self.held = np.zeros(array.size, np.float32)
        np.copyto(self.held[: array.size], array.reshape(-1))


class Publish:
    def __init__(self, model: str, zero_stage: int):
        import ray

        self.config = runs.config(
            cluster={"cpus": 4, "gpus": 0, "dashboard": False, "object_store_gb": 2.0},
            policy={"zero_stage": zero_stage}, data={"max_prompt_tokens": 16},
            rollout={"max_response_tokens": RESPONSE, "ignore_end": True, "max_concurrent": DECODED, "kv_cache_gb": 0.3})
        self.ray = runs.ray(self.config)
        self.ray.__enter__()
        self.model, self.version = model, 0
        self.events = asyncio.new_event_loop()
        self.fleet, self.policy = RolloutFleet(self.config, model, []), PolicyGroup(self.config, model)
        self.receiver = ray.remote(Receiver).options(num_cpus=0).remote()
        self.tag = f"bench-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        try:
            self.events.run_until_complete(self._start())
        except BaseException:
            self.close()
            raise

    async def _start(self) -> None:
        from scale_rlhf.weights.choice import transport

        options = {"num_cpus": 0.1, "runtime_env": {"env_vars": environment(1)}}
        await asyncio.gather(self.fleet.start([options]), self.policy.start())
        chosen = transport(self.config, await self.policy.places(), await self.fleet.places())
        await self.policy.open_transport(chosen, self.tag, self.fleet.engines, 1)
        self.fleet.open_transport(chosen)

    def block(self) -> dict[str, float]:
        """Publish and load a version while samples decode."""
        return self.events.run_until_complete(self._block())

    async def _block(self) -> dict[str, float]:
        first = 1000 * (self.version + 1)
        ids = np.full(16, 5, np.int32)
        decoding = [asyncio.create_task(self.fleet.generate(Prompt(first + i, i, ids))) for i in range(DECODED)]
        await asyncio.sleep(0.5)
        self.version += 1
        started = time.perf_counter()
        info = await self.policy.publish(self.version)
        published = time.perf_counter()
        loaded = await self.fleet.load(self.version, info)
        seconds = time.perf_counter() - started
        still = sum(not task.done() for task in decoding)
        await asyncio.gather(*decoding)
        size = sum(one["size"] for one in info["tensors"])
        return {"seconds": seconds, "publish": published - started, "stopped": loaded["stopped_seconds"],
                "stage": loaded["stage_seconds"], "gigabytes_per_second": size / seconds / 1e9, "still_decoding": still}

    def calls(self) -> dict[str, float]:
        """Every parameter in a call of its own, each awaited, as trainers do that broadcast parameter by parameter."""
        import ray

        whole = [tensor.numpy() for _, tensor in tensors(self.model)]
        started = time.perf_counter()
        for array in whole:
            ray.get(self.receiver.take.remote(array))
        return {"seconds": time.perf_counter() - started, "calls": len(whole)}

    def close(self) -> None:
        self.events.run_until_complete(self.fleet.close())
        self.events.run_until_complete(self.policy.close())
        self.ray.__exit__(None, None, None)
        for left in Path("/dev/shm").glob(f"scale-rlhf-{self.tag}-*"):  # of a rank that was killed
            left.unlink()


if __name__ == "__main__":
    serve(Publish)
