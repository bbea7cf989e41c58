"""Answers for evaluation: one engine where rollout's are placed, into which one model after another is loaded.

On this host a model is loaded the way a new version is, through shared memory; on another the engine starts anew with it.
"""

import asyncio
import uuid
from collections.abc import Sequence

import numpy as np

from scale_rlhf.cluster.device import environment
from scale_rlhf.config.schema import ModelSection, RolloutSection, RunConfig
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.rollout.fleet import RolloutFleet
from scale_rlhf.weights.files import shapes, tensors
from scale_rlhf.weights.shared_memory import SharedMemoryPublisher


class Answerer:
    """Context manager. `load` a model, then `answer` prompts with it; a model of another shape gets a new engine."""

    def __init__(self, config: RunConfig):
        # One engine is enough, and on this host it takes weights from files through shared memory, on GPUs too.
        self.config = config.model_copy(deep=True)
        self.config.rollout.engines = 1
        self.config.rollout.weight_transfer = "shared_memory"
        self.config.rollout.verify_weights = False  # there is no trainer to agree with
        self.fleet: RolloutFleet | None = None
        self.publisher = SharedMemoryPublisher(f"answers-{uuid.uuid4().hex[:8]}")
        self.loaded: tuple[dict | None, int] | None = None  # shapes of the model in the engine, and its end token
        self.version, self.beside = 0, True  # us, on this host

    def __enter__(self) -> "Answerer":
        # A Runner, not a bare loop: Ctrl-C then cancels what runs in it and waits for that, instead of leaving tasks pending.
        self.runner = asyncio.Runner()
        return self

    def load(self, model: str) -> None:
        """Answer with this model from now on. model: a folder with safetensors, or a hub name."""
        found = shapes(model), end_token(model, self.config.model)
        if self.fleet is None or not self.beside or found[0] is None or found != self.loaded:
            self._start(model)
        else:
            self.version += 1
            manifest = self.publisher.publish(self.version, tensors(model), found[0])
            self.runner.run(self.fleet.load(self.version, manifest.update_info()))
        self.loaded = found

    def answer(self, prompts: Sequence[Sequence[int]], temperature: float, seed: int) -> list[Sample]:
        """A response to each prompt, all at once. The same seed gives the same responses."""
        asked = [Prompt(seed * 1_000_003 + i, i, np.asarray(ids, dtype=np.int32)) for i, ids in enumerate(prompts)]

        async def all_of_them() -> list[Sample]:
            return list(await asyncio.gather(*(self.fleet.generate(prompt, temperature=temperature) for prompt in asked)))

        return self.runner.run(all_of_them())

    def __exit__(self, *error) -> None:
        self._stop()
        self.publisher.close()
        self.runner.close()

    def _start(self, model: str) -> None:
        self._stop()
        import ray

        self.fleet = RolloutFleet(self.config, model, [end_token(model, self.config.model)])
        self.runner.run(self.fleet.start([engine_options(self.config.rollout)]))
        self.beside = self.runner.run(self.fleet.places()) == [ray.get_runtime_context().get_node_id()]

    def _stop(self) -> None:
        if self.fleet is not None:
            self.runner.run(self.fleet.close())
            self.fleet = None


def end_token(model: str, section: ModelSection) -> int:
    """The token that ends a model's answer."""
    from scale_rlhf.data.chat import load_tokenizer

    return load_tokenizer(model, section).eos_token_id


def engine_options(rollout: RolloutSection) -> dict:
    """Ray options of one engine that nobody has placed: one process that owns its ranks' share of a node."""
    ranks = rollout.tensor_parallel
    return {"num_cpus": rollout.cpus * ranks, "num_gpus": rollout.gpus * ranks, "label_selector": rollout.labels,
            "resources": {name: amount * ranks for name, amount in rollout.resources.items()},
            "runtime_env": {"env_vars": environment(rollout.threads, rollout.gpus)}}
