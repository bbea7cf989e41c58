"""Our fleet of engines: real Ray actors, one call a sample."""

import asyncio
import time
from typing import Any

import numpy as np

from benchmarks import runs
from benchmarks.peer import serve
from scale_rlhf.experience.sample import Prompt
from scale_rlhf.rollout.fleet import RolloutFleet


class Fleet:
    """One engine; `requests` are (prompt ids, response tokens), all asked at once."""

    def __init__(self, model: str, rollout: dict[str, Any], requests: list[tuple[list[int], int]], max_tokens: int):
        from scale_rlhf.cluster.device import environment

        longest = max(length for _, length in requests)
        run = runs.config(rollout=rollout | {"max_response_tokens": longest}, data={"max_prompt_tokens": max_tokens - longest})
        self.prompts = [Prompt(i, i, np.asarray(ids, dtype=np.int32)) for i, (ids, _) in enumerate(requests)]
        self.lengths = [length for _, length in requests]
        self.ray = runs.ray(run)
        self.ray.__enter__()
        self.loop = asyncio.new_event_loop()
        self.fleet = RolloutFleet(run, model, [])
        options = {"num_cpus": run.rollout.cpus, "runtime_env": {"env_vars": environment(run.rollout.threads)}}
        self.loop.run_until_complete(self.fleet.start([options]))

    def block(self) -> dict[str, float]:
        """Answer all requests once."""

        async def all_at_once():
            asked = zip(self.prompts, self.lengths, strict=True)
            return await asyncio.gather(*(self.fleet.generate(prompt, max_tokens=length) for prompt, length in asked))

        started = time.perf_counter()
        samples = self.loop.run_until_complete(all_at_once())
        seconds = time.perf_counter() - started
        tokens = sum(len(sample.response_ids) for sample in samples)
        return {"seconds": seconds, "tokens": tokens, "rate": tokens / seconds}

    def close(self) -> None:
        self.loop.run_until_complete(self.fleet.close())
        self.ray.__exit__(None, None, None)


if __name__ == "__main__":
    serve(Fleet)
