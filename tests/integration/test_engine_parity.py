"""Engine and trainer agree: after every weight update, for tied and untied embeddings, running requests too.

The tied one has GPT-2's layout, which differs most from the others; test_weights.py has both in Qwen3's, test_families.py others.
"""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from scale_rlhf.config.schema import RolloutSection
from scale_rlhf.experience.packing import pack
from scale_rlhf.experience.sample import Prompt
from scale_rlhf.models.forward import response_logprobs
from scale_rlhf.rollout.engine import RolloutEngine
from scale_rlhf.weights.shared_memory import SharedMemoryPublisher
from tests.families import family_policy
from tests.tiny import tiny_policy

LIMIT = 1e-4  # nats, fp32


class TrainerModel:
    """A plain model that stands for the learner, and publishes itself."""

    def __init__(self, path, tag):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.publisher = SharedMemoryPublisher(tag)

    def perturb(self, seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

    def publish(self, version):
        named = list(self.model.named_parameters())
        metadata = [(name, str(p.dtype).removeprefix("torch."), tuple(p.shape), p.numel() * p.element_size())
                    for name, p in named]
        return self.publisher.publish(version, named, metadata).update_info()

    def logprobs(self, sample, temperature):
        with torch.no_grad():
            return response_logprobs(self.model, pack([sample]), temperature)[0].numpy()


def prompts(count, first=0):
    rng = np.random.default_rng(first)
    return [Prompt(first + i, first + i, rng.integers(264, 300, 5 + i % 7).astype(np.int32)) for i in range(count)]


def stopped_rightly(sample, path):
    """Whether an ended response came to an end token, a stop token or a stop string, and to no stop token before."""
    last = sample.response_ids[-1:]
    said = AutoTokenizer.from_pretrained(path).decode(last)
    return not {1, 7} & set(sample.response_ids[:-1].tolist()) and (last[0] in (1, 7) or "e" in said)


@pytest.mark.parametrize("tied", [True, False], ids=["gpt2, tied", "qwen3, untied"])
def test_engine_and_trainer_agree_after_every_update(cluster, tmp_path, tied):
    path = family_policy(tmp_path / "model", "gpt2") if tied else tiny_policy(tmp_path / "model", tied=False)
    trainer = TrainerModel(path, f"parity-{tied}")
    # The second engine also has its own ways to end a response.
    ends = {} if tied else {"stop_token_ids": [7], "stop": ["e"]}
    rollout = RolloutSection(max_response_tokens=24, temperature=0.7, max_concurrent=16, kv_cache_gb=0.05,
                             ignore_end=tied, **ends)
    engine = cluster.remote(RolloutEngine).options(num_cpus=1, max_concurrency=100).remote(
        rollout, str(path), seed=0, end_token_ids=[1], max_tokens=200, transfer="host")
    try:
        cluster.get(engine.start.remote(), timeout=120)
        for version in range(3):
            if version:
                trainer.perturb(version)
                cluster.get(engine.load.remote(version, trainer.publish(version)), timeout=60)
            batch = cluster.get([engine.generate.remote(p) for p in prompts(8, first=100 * version)], timeout=60)
            gaps = [np.abs(trainer.logprobs(s, 0.7) - s.logprobs).max() for s in batch]
            assert max(gaps) < LIMIT
            assert all((s.versions == version).all() for s in batch)
            assert all(len(s.response_ids) == 24 and not s.ended for s in batch) or not tied
            assert tied or all(s.ended or len(s.response_ids) == 24 for s in batch)
            assert tied or all(stopped_rightly(s, path) for s in batch if s.ended)

        # Updated in mid-generation: tokens before and after belong to different versions, each with its own log-probability.
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        old = TrainerModel(path, "unused")
        old.model.load_state_dict(before)
        running = [engine.generate.remote(p, max_tokens=180) for p in prompts(8, first=900)]
        cluster.get(engine.generate.remote(prompts(1, first=990)[0], max_tokens=12), timeout=60)  # some tokens in
        trainer.perturb(7)
        cluster.get(engine.load.remote(3, trainer.publish(3)), timeout=60)
        batch = cluster.get(running, timeout=120)
        assert any(set(s.versions) == {2, 3} for s in batch) or not tied  # responses that may end early, may be over before
        for s in batch:
            expected = np.where(s.versions == 2, old.logprobs(s, 0.7), trainer.logprobs(s, 0.7))
            assert np.abs(expected - s.logprobs).max() < LIMIT
        # The same request again gives the same sample, bit for bit, alone or among others.
        again = prompts(4, first=500)
        together = cluster.get([engine.generate.remote(p) for p in again], timeout=60)
        alone = cluster.get(engine.generate.remote(again[2]), timeout=60)
        assert (alone.response_ids == together[2].response_ids).all() and (alone.logprobs == together[2].logprobs).all()
    finally:
        cluster.get(engine.close.remote(), timeout=30)
        cluster.kill(engine)
        trainer.publisher.close()
