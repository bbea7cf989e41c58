"""The policy update through DeepSpeed, and the same maths in bare torch loops, all in one process on the same threads."""

import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import models, runs
from benchmarks.peer import serve
from benchmarks.peers.bare import BareLoop, sorted_batches
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.training.batch import TrainingBatch

CLIP = 0.2


class Training:
    """One batch of samples with a natural mix of lengths; every contender makes one update from it: one epoch, one step."""

    def __init__(
        self, model: str, size: str, dtype: str, threads: int, shapes: Sequence[tuple[int, int]], budget: int,
        padded_samples: int,
    ):
        """shapes: (prompt, response) tokens of each sample. budget: tokens of a packed forward. padded_samples: of a padded."""
        import torch

        os.environ |= {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "warning"}
        torch.set_num_threads(threads)
        self.size, self.dtype, self.budget, self.padded_samples = size, dtype, budget, padded_samples
        self.samples = made_samples(shapes, models.SHAPES[size][-1])
        random = np.random.default_rng(1)
        self.advantages = [random.normal(size=len(one.response_ids)).astype(np.float32) for one in self.samples]
        self.tokens = sum(one.tokens for one in self.samples)
        self.response_tokens = sum(len(one.response_ids) for one in self.samples)
        self.version = 0
        self.worker = policy_worker(model, dtype, threads, budget)
        self.samples = with_logprobs(self.samples, self.worker.logprobs(self.samples))
        self.bare = BareLoop(model, dtype, self.worker.config.policy, CLIP)
        self.ready = {"tokens": self.tokens, "response_tokens": self.response_tokens, "flops": self._flops(),
                      "longest": max(one.tokens for one in self.samples)}

    def update(self) -> dict[str, float]:
        """Ours: `PolicyWorker.update`."""
        batch = TrainingBatch(self.samples, np.zeros(len(self.samples), np.float32),
                              [one.logprobs for one in self.samples], 0.05)
        self.version += 1
        return self._timed(lambda: self.worker.update(batch, self.advantages, self.version))

    def packed(self, budget: int | None = None) -> dict[str, float]:
        """The bare loop over packed rows of `budget` tokens (ours by default): no padding at all."""
        return self._timed(lambda: self.bare.update_packed(self.samples, self.advantages, budget or self.budget))

    def by_length(self) -> dict[str, float]:
        """The bare loop over small batches of neighbours in length: little padding, and no mask of a packed row."""
        return self._timed(lambda: self.bare.update_padded(
            self.samples, self.advantages, sorted_batches(self.samples, self.budget)))

    def padded(self) -> dict[str, float]:
        """The bare loop over batches in the order of arrival, each padded to its longest sample."""
        places = list(range(len(self.samples)))
        batches = [places[i : i + self.padded_samples] for i in range(0, len(places), self.padded_samples)]
        return self._timed(lambda: self.bare.update_padded(self.samples, self.advantages, batches))

    def gemm(self, side: int = 1536) -> dict[str, float]:
        """The rate of one large matrix product in this type on these threads: FLOP/s."""
        import torch

        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]
        left, right = torch.randn(side, side).to(kind), torch.randn(side, side).to(kind)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.5:
            left @ right
            count += 1
        return {"flops": count * 2 * side**3 / (time.perf_counter() - started)}

    def _timed(self, update) -> dict[str, float]:
        started = time.perf_counter()
        update()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "rate": self.tokens / seconds, "flops": self._flops() / seconds}

    def _flops(self) -> float:
        """Of one update: 2 for each multiplied element forwards, 4 backwards; attention over the half that is causal."""
        hidden, layers, heads, _, _, vocabulary = models.SHAPES[self.size]
        attention = sum(one.tokens**2 for one in self.samples) * heads * 64 * layers * 2
        products = models.matrix_parameters(self.size) * self.tokens + vocabulary * hidden * self.response_tokens
        return 3 * (2 * products + attention)

    def close(self) -> None:
        self.worker.close()


def policy_worker(model: str, dtype: str, threads: int, budget: int) -> Any:
    """The real rank 0 of 1, set up in this process instead of in an actor."""
    from scale_rlhf.training.policy import PolicyWorker
    from scale_rlhf.training.process_group import free_port

    os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(tempfile.gettempdir(), "scale-rlhf-extensions"))
    config = runs.config(
        policy={"dtype": dtype, "threads": threads, "zero_stage": 0, "learning_rate": 1e-5},
        ppo={"epochs": 1, "minibatches": 1, "tokens_per_microbatch": budget, "clip_low": CLIP, "clip_high": CLIP},
    )
    worker = PolicyWorker(config, model, 0, 1)
    worker.setup("127.0.0.1", free_port())
    return worker


def made_samples(shapes: Sequence[tuple[int, int]], vocabulary: int) -> list[Sample]:
    random = np.random.default_rng(0)

    def sample(place: int, prompt: int, response: int) -> Sample:
        ids = random.integers(4, vocabulary, prompt + response).astype(np.int32)
        return Sample(Prompt(place, place, ids[:prompt]), ids[prompt:], np.zeros(response, np.float32),
                      np.zeros(response, np.int32), ended=False)

    return [sample(place, *shape) for place, shape in enumerate(shapes)]


def with_logprobs(samples: Sequence[Sample], logprobs: Sequence[np.ndarray]) -> list[Sample]:
    """The same samples as if the model itself had sampled them: the ratio of the first step is 1."""
    return [Sample(one.prompt, one.response_ids, found, one.versions, one.ended)
            for one, found in zip(samples, logprobs, strict=True)]


if __name__ == "__main__":
    serve(Training)
