"""Updates by real DeepSpeed ranks against a plain torch loop: same gradients however the batch is cut, on whatever ranks.

Adam divides a gradient by its own size, so its first step turns rounding into full steps; with eps = 1 a step is a
smooth function of the gradient, and weights can be compared.
"""

import asyncio
import sys
import time

import numpy as np
import pytest
import torch
from ray import cloudpickle
from safetensors.torch import load_file

from scale_rlhf.algorithms import advantages as gae
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.training.batch import TrainingBatch, minibatches
from scale_rlhf.training.group import PolicyGroup, TrainingGroup, ValueGroup
from scale_rlhf.training.policy import PolicyWorker
from scale_rlhf.training.value import ValueWorker
from tests import tiny

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZE = 13  # a prime: no number of ranks, minibatches or micro-batches divides it
TEMPERATURE = 0.8
SMOOTH = {"learning_rate": 0.3, "epsilon": 1.0, "max_gradient_norm": 1e6}


def configuration(role: str, ppo: dict | None = None, **section) -> RunConfig:
    ppo = {"steps": 10, "epochs": 2, "minibatches": 3, "tokens_per_microbatch": 40, "clip_low": 0.3} | (ppo or {})
    return RunConfig(**{role: SMOOTH | section, "ppo": ppo, "rollout": {"temperature": TEMPERATURE}})


class Bench(PolicyWorker):
    """Ranks that start again with other settings, policy or value, in the process group that they have: saves seconds a test."""

    def build(self) -> dict:
        return {}

    def run_policy(self, path, config, batch, advantages, versions=(0,)):
        worker = self._worker(PolicyWorker, path, config)
        metrics = [worker.update(batch, advantages, version) for version in versions]
        return self._weights(worker), metrics

    def run_value(self, path, config, batch):
        worker = self._worker(ValueWorker, path, config)
        advantages, prepared = worker.prepare(batch)
        return advantages, prepared, worker.update(batch, 0), self._weights(worker)

    def train_and_save(self, path, config, batch, advantages, folder):
        """Two updates, and the state between them written while the second runs."""
        worker = self._worker(PolicyWorker, path, config)
        worker.update(batch, advantages, 0)
        worker.checkpoint(folder)
        metrics = worker.update(batch, advantages, 1)
        while not worker.checkpointed():
            time.sleep(0.01)
        return self._weights(worker), metrics

    def train_and_export(self, path, config, batch, advantages, folder):
        worker = self._worker(PolicyWorker, path, config)
        worker.update(batch, advantages, 0)
        worker.save(folder)
        return worker.logprobs(batch.samples)

    def train_with_reference(self, path, config, batch, advantages):
        """Two updates, with the reference asked before each."""
        worker = self._worker(PolicyWorker, path, config)
        references = []
        for version in (0, 1):
            references.append(worker.reference_logprobs(batch.samples)[0])
            worker.update(batch, advantages, version)
        return references, self._weights(worker)

    def save_and_train(self, path, config, batch, advantages, folder):
        """The state before the first update, written while it runs."""
        worker = self._worker(PolicyWorker, path, config)
        worker.checkpoint(folder)
        metrics = worker.update(batch, advantages, 0)
        while not worker.checkpointed():
            time.sleep(0.01)
        return self._weights(worker), metrics

    def restore_and_train(self, path, config, batch, advantages, folder, version):
        worker = self._worker(PolicyWorker, path, config)
        worker.restore(folder)
        held = self._weights(worker)
        return held, worker.update(batch, advantages, version), self._weights(worker)

    def hang(self):
        time.sleep(2)

    def _worker(self, kind, path, config):
        worker = kind(config, path, self.rank, self.world)
        worker.build()
        return worker

    def _weights(self, worker) -> dict[str, torch.Tensor]:
        return {name: tensor.float().clone() for name, tensor in worker.named_weights()}


class Ranks(TrainingGroup):
    def policy(self, config, batch, advantages, *versions):
        return self._run("run_policy", self.path, config, batch, advantages, *versions)

    def value(self, path, config, batch):
        return self._run("run_value", str(path), config, batch)

    def train_and_save(self, config, batch, advantages, folder):
        return self._run("train_and_save", self.path, config, batch, advantages, str(folder))

    def train_and_export(self, config, batch, advantages, folder):
        return self._run("train_and_export", self.path, config, batch, advantages, str(folder))

    def train_with_reference(self, config, batch, advantages):
        return self._run("train_with_reference", self.path, config, batch, advantages)

    def save_and_train(self, config, batch, advantages, folder):
        return self._run("save_and_train", self.path, config, batch, advantages, str(folder))

    def restore_and_train(self, config, batch, advantages, folder, version=1):
        return self._run("restore_and_train", self.path, config, batch, advantages, str(folder), version)

    def _run(self, *arguments):
        return asyncio.run(self.call(*arguments, seconds=100, what="a test"))[0]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    return tiny.tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def value_folder(tmp_path_factory):
    return tiny.tiny_classifier(tmp_path_factory.mktemp("value"))


@pytest.fixture(scope="module")
def groups(cluster, policy_folder):
    """{ranks: group}, started side by side."""
    made = {ranks: Ranks(configuration("policy", workers=ranks, cpus=0.5), Bench, str(policy_folder)) for ranks in (1, 2)}

    async def start():
        await asyncio.gather(*(group.start() for group in made.values()))

    asyncio.run(start())
    yield made
    for group in made.values():
        asyncio.run(group.close())


@pytest.fixture(scope="module")
def batch(policy_folder):
    """Samples with log-probabilities near the model's own, so that some ratios are clipped and some are not."""
    from transformers import AutoModelForCausalLM

    samples, random = tiny.samples(SIZE, seed=5), np.random.default_rng(1)
    model = AutoModelForCausalLM.from_pretrained(policy_folder)
    with torch.no_grad():
        for sample in samples:
            sample.logprobs[:] = plain_logprobs(model, sample).numpy() + random.normal(0, 0.2, len(sample.logprobs))
    reference = [(s.logprobs + random.normal(0, 0.1, len(s.logprobs))).astype(np.float32) for s in samples]
    return TrainingBatch(samples, random.normal(size=SIZE).astype(np.float32), reference, 0.1)


@pytest.fixture(scope="module")
def advantages(batch):
    random = np.random.default_rng(2)
    return [random.normal(size=len(s.response_ids)).astype(np.float32) for s in batch.samples]


def plain_logprobs(model, sample):
    ids = torch.tensor([[*sample.prompt.token_ids, *sample.response_ids]]).long()
    first = len(sample.prompt.token_ids)
    distribution = torch.log_softmax(model(input_ids=ids).logits[0] / TEMPERATURE, -1)
    return distribution[first - 1 : -1].gather(-1, ids[0, first:, None])[:, 0]


def plain_values(model, sample):
    ids = torch.tensor([[*sample.prompt.token_ids, *sample.response_ids]]).long()
    hidden = model.model(input_ids=ids).last_hidden_state[0]
    return model.score(hidden)[len(sample.prompt.token_ids) - 1 : -1, 0]


def plain_loop(model, samples, config, section, token_losses) -> dict[str, torch.Tensor]:
    """One sample a forward, torch alone. token_losses(sample, place) -> [tokens]. Returns the weights by name."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=section.learning_rate, betas=section.betas, eps=section.epsilon, weight_decay=0.0,
    )
    for epoch in range(config.ppo.epochs):
        for places in minibatches(len(samples), config.ppo.minibatches, seed=config.run.seed, version=0, epoch=epoch):
            total = sum(token_losses(samples[place], place).sum() for place in places)
            (total / sum(len(samples[place].response_ids) for place in places)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def plain_policy(policy_folder, batch, advantages):
    """The weights before, and after a plain loop's update."""
    from transformers import AutoModelForCausalLM

    config, model = configuration("policy"), AutoModelForCausalLM.from_pretrained(policy_folder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def losses(sample, place):
        advantage = torch.from_numpy(advantages[place])
        ratio = (plain_logprobs(model, sample) - torch.from_numpy(sample.logprobs)).exp()
        return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 0.3, 1 + 0.2))

    return before, plain_loop(model, batch.samples, config, config.policy, losses)


def same(found: dict, expected: dict, atol: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def distance(a: dict, b: dict) -> float:
    return float(torch.stack([(a[name] - b[name]).square().sum() for name in b]).sum().sqrt())


CUTS = [
    (1, {"zero_stage": 2}, 40), (1, {"zero_stage": 2}, 1), (1, {"zero_stage": 0}, 100_000), (1, {"zero_stage": 3}, 40),
    (2, {"zero_stage": 0}, 40), (2, {"zero_stage": 1}, 40), (2, {"zero_stage": 2}, 40), (2, {"zero_stage": 3}, 40),
    (2, {"zero_stage": 2}, 1), (2, {"zero_stage": 3}, 1), (2, {"zero_stage": 3}, 100_000),
    (2, {"zero_stage": 2, "gradient_checkpointing": True}, 40), (2, {"zero_stage": 3, "gradient_checkpointing": True}, 40),
    (2, {"zero_stage": 2, "offload_optimizer": True}, 40), (1, {"zero_stage": 1, "offload_optimizer": True}, 40),
    (2, {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}, 40),
]


@pytest.mark.parametrize("ranks,section,budget", CUTS, ids=lambda value: str(value).strip("{}").replace("'", ""))
def test_policy_update_does_not_depend_on_the_cut(groups, batch, advantages, plain_policy, ranks, section, budget):
    before, expected = plain_policy
    config = configuration("policy", {"tokens_per_microbatch": budget}, workers=ranks, **section)
    found, _ = groups[ranks].policy(config, batch, advantages)
    assert max(float((expected[name] - before[name]).abs().max()) for name in before) > 1e-2  # the comparison can fail
    same(found, expected)


METHODS = {
    "gspo": {"loss": "gspo", "aggregation": "sequence_mean"}, "gspo, token_mean": {"loss": "gspo"},
    "cispo": {"loss": "cispo"}, "cispo, constant": {"loss": "cispo", "aggregation": "constant"},
    "ppo, sequence_mean": {"aggregation": "sequence_mean"}, "ppo, constant": {"aggregation": "constant"},
    "k2 in the loss": {"kl_in": "loss", "kl_estimator": "k2"},
    "k3 in the loss, sequence_mean": {"kl_in": "loss", "kl_estimator": "k3", "aggregation": "sequence_mean"},
}


@pytest.mark.parametrize("method", METHODS)
def test_no_loss_depends_on_the_cut(groups, batch, advantages, plain_policy, method):
    """One forward of all on one rank, and one sample a forward on two."""
    before, _ = plain_policy
    whole, (metrics,) = groups[1].policy(
        configuration("policy", METHODS[method] | {"tokens_per_microbatch": 100_000}, zero_stage=0), batch, advantages)
    cut, (again,) = groups[2].policy(
        configuration("policy", METHODS[method] | {"tokens_per_microbatch": 1}, workers=2, zero_stage=2), batch, advantages)
    assert distance(whole, before) > 1e-2
    same(cut, whole)
    for key in ("loss", "clip_fraction", "approximate_kl", *(["kl"] if "kl_in" in METHODS[method] else [])):
        assert again[key] == pytest.approx(metrics[key], abs=1e-5), key
    assert metrics["clip_fraction"] > 0 and ("kl" in metrics) == ("kl_in" in METHODS[method])


def test_the_policy_can_be_saved_while_the_value_model_learns_alone(groups, batch, advantages, tmp_path):
    """Before its first step Adam has no moments yet."""
    for ranks, section in ((1, {"zero_stage": 0}), (2, {"zero_stage": 2}), (2, {"zero_stage": 3})):
        config = configuration("policy", {"value_pretraining": 4}, workers=ranks, schedule="linear", **section)
        folder = tmp_path / f"{ranks}-{section['zero_stage']}"
        fresh, (expected,) = groups[ranks].policy(config, batch, advantages)
        found, metrics = groups[ranks].save_and_train(config, batch, advantages, folder)
        held, again, restored = groups[ranks].restore_and_train(config, batch, advantages, folder, 0)
        assert timeless(expected) == timeless(metrics) == timeless(again)
        assert all(torch.equal(found[name], fresh[name]) and torch.equal(restored[name], fresh[name]) for name in fresh)
        assert distance(held, fresh) > 1e-2
        assert metrics["learning_rate"] == pytest.approx(0.3 * (1 - 5 / 36))  # over 10 − 4 updates of 6 steps


def test_the_same_update_twice_is_the_same_to_the_bit(groups, batch, advantages):
    config = configuration("policy", workers=2, zero_stage=2)
    first, again = (groups[2].policy(config, batch, advantages)[0] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_more_ranks_than_samples(groups, policy_folder, batch, advantages):
    one = TrainingBatch(batch.samples[:1], batch.scores[:1], batch.reference_logprobs[:1], 0.1)
    weights = [
        groups[ranks].policy(configuration("policy", workers=ranks, zero_stage=stage), one, advantages[:1])[0]
        for ranks, stage in ((1, 2), (2, 2), (2, 3))
    ]
    same(weights[1], weights[0])
    same(weights[2], weights[0])


@pytest.mark.parametrize("stage,autocast", [(0, False), (1, False), (2, False), (3, False), (0, True), (2, True), (3, True)])
def test_bfloat16_goes_the_same_way(groups, batch, advantages, plain_policy, stage, autocast):
    before, expected = plain_policy
    config = configuration("policy", workers=2, zero_stage=stage, dtype="bfloat16", autocast=autocast)
    found, _ = groups[2].policy(config, batch, advantages)
    assert 0 < distance(found, expected) < 0.15 * distance(before, expected)
    held_in_bfloat16 = all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in found.values())
    assert held_in_bfloat16 is not autocast


SETTINGS = {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "cpus": 0.5}
SAVED = [(1, {"zero_stage": 0}), (1, {"zero_stage": 2}), (2, {"zero_stage": 0}), (2, {"zero_stage": 1}),
         (2, {"zero_stage": 2}), (2, {"zero_stage": 3}),
         (2, {"zero_stage": 2, "offload_optimizer": True}),
         (2, {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}),
         (2, {"zero_stage": 2, "dtype": "bfloat16"}),
         (2, {"zero_stage": 3, "dtype": "bfloat16"}), (1, {"zero_stage": 1, "dtype": "bfloat16", "autocast": True})]


def timeless(metrics: dict) -> dict:
    return {key: value for key, value in metrics.items() if key != "seconds"}


@pytest.mark.parametrize("ranks,section", SAVED, ids=lambda value: str(value).strip("{}").replace("'", ""))
def test_training_goes_on_from_saved_state_to_the_bit(groups, batch, advantages, tmp_path, ranks, section):
    config = configuration("policy", workers=ranks, **SETTINGS | section)
    expected, metrics = groups[ranks].train_and_save(config, batch, advantages, tmp_path)
    held, again, found = groups[ranks].restore_and_train(config, batch, advantages, tmp_path)
    assert timeless(again) == timeless(metrics)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert distance(held, expected) > 1e-2  # the second update moved the weights


@pytest.mark.parametrize("saved,ranks", [((2, 3), (1, 0)), ((1, 2), (2, 3)), ((2, 1), (1, 2)), ((1, 0), (2, 2))])
def test_saved_state_fits_other_ranks_and_stages(groups, batch, advantages, tmp_path, saved, ranks):
    (before, stage), (after, other) = saved, ranks
    config = configuration("policy", workers=before, zero_stage=stage, **SETTINGS)
    expected, metrics = groups[before].train_and_save(config, batch, advantages, tmp_path)
    config = configuration("policy", workers=after, zero_stage=other, **SETTINGS)
    _, again, found = groups[after].restore_and_train(config, batch, advantages, tmp_path)
    assert again["learning_rate"] == metrics["learning_rate"]
    same(found, expected)


def test_policy_metrics(groups, batch, advantages):
    for ranks in (1, 2):
        config = configuration("policy", {"epochs": 1, "minibatches": 1}, workers=ranks)
        _, (metrics,) = groups[ranks].policy(config, batch, advantages)
        assert metrics["tokens"] == batch.response_tokens()
        assert metrics["ratio"] == pytest.approx(1.0, abs=0.1)
        assert metrics["approximate_kl"] == pytest.approx(0.02, rel=0.5)  # ½·0.2², as the samples were made
        assert 0 < metrics["clip_fraction"] < 0.5 and 0 < metrics["entropy"] < np.log(320)
        assert metrics["gradient_norm"] > 0 and metrics["seconds"] > 0


def test_learning_rate_schedule_and_warmup(groups, batch, advantages):
    ppo = {"steps": 4, "epochs": 1, "minibatches": 1}

    def rates(**section):
        config = configuration("policy", ppo, learning_rate=1.0, **section)
        return [m["learning_rate"] for m in groups[1].policy(config, batch, advantages, range(4))[1]]

    assert rates() == [1, 1, 1, 1]
    assert rates(schedule="linear") == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(schedule="cosine", warmup_steps=2) == pytest.approx([0.5, 1, 1, 0.5])


def test_clipping_and_weight_decay_act(groups, batch, advantages, plain_policy):
    before, _ = plain_policy
    ppo = {"epochs": 1, "minibatches": 1}

    def moved(ranks=1, **section):
        found, (metrics,) = groups[ranks].policy(configuration("policy", ppo, workers=ranks, **section), batch, advantages)
        return distance(found, before), metrics["gradient_norm"], found

    free, norm, _ = moved()
    for ranks, stage in ((1, 0), (1, 2), (2, 3)):
        clipped, unclipped_norm, _ = moved(ranks, zero_stage=stage, max_gradient_norm=norm / 100)
        assert clipped == pytest.approx(free / 100, rel=0.1) and unclipped_norm == pytest.approx(norm, rel=1e-4)
    *_, decayed = moved(max_gradient_norm=1e-9, weight_decay=0.1, zero_stage=2)
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(decayed[name], before[name] * (1 - 0.3 * 0.1), atol=1e-6, rtol=0)
    norms = "model.norm.weight"
    torch.testing.assert_close(decayed[norms], before[norms], atol=1e-6, rtol=0)


def plain_prepared(value_folder, batch, config):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(value_folder)
    values, returns, raw = [], [], []
    for place, sample in enumerate(batch.samples):
        with torch.no_grad():
            value = plain_values(model, sample)
        reward = -batch.kl_coefficient * torch.from_numpy(sample.logprobs - batch.reference_logprobs[place])
        reward[-1] += float(batch.scores[place]) + (0.0 if sample.ended else config.ppo.missing_end_penalty)
        advantage, reach = gae.generalized_advantage_estimation(
            reward[None], value[None], torch.ones(1, len(value), dtype=torch.bool), gamma=config.ppo.gamma, lam=config.ppo.lam,
        )
        values.append(value), returns.append(reach[0]), raw.append(advantage[0])
    return model, values, returns, raw


@pytest.mark.parametrize("ranks,stage,budget", [(1, 2, 40), (1, 0, 1), (2, 2, 40), (2, 3, 40), (2, 3, 1)])
def test_value_update_does_not_depend_on_the_cut(groups, value_folder, batch, ranks, stage, budget):
    config = configuration("value", {"tokens_per_microbatch": budget}, workers=ranks, zero_stage=stage, learning_rate=0.05)
    model, values, returns, raw = plain_prepared(value_folder, batch, config)

    def losses(sample, place):
        value = plain_values(model, sample)
        clipped = torch.clamp(value, values[place] - 0.2, values[place] + 0.2)
        return 0.5 * torch.maximum((value - returns[place]).square(), (clipped - returns[place]).square())

    expected = plain_loop(model, batch.samples, config, config.value, losses)
    advantages, prepared, updated, found = groups[ranks].value(value_folder, config, batch)
    flat = torch.cat(raw)
    white = (flat - flat.mean()) / (flat.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(torch.from_numpy(np.concatenate(advantages)), white, atol=2e-5, rtol=0)
    assert [len(a) for a in advantages] == [len(s.response_ids) for s in batch.samples]
    kl = np.mean([(s.logprobs - r).sum() for s, r in zip(batch.samples, batch.reference_logprobs, strict=True)])
    assert prepared["kl"] == pytest.approx(kl, abs=1e-4)
    error = torch.cat(returns) - torch.cat(values)
    assert prepared["value_error"] == pytest.approx(float(error.square().mean()), rel=1e-4)
    explained = 1 - float(error.var(correction=0) / torch.cat(returns).var(correction=0))
    assert prepared["explained_variance"] == pytest.approx(explained, abs=1e-4)
    assert updated["value_error"] < prepared["value_error"]  # it learns within the epochs
    same(found, expected)


@pytest.mark.parametrize("stage,tied", [(2, True), (3, True), (3, False)])
def test_a_saved_policy_is_the_one_that_was_trained(cluster, batch, advantages, tmp_path, stage, tied):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = tiny.tiny_policy(tmp_path / "start", tied=tied)
    group = PolicyGroup(configuration("policy", workers=1 if stage == 2 else 2, zero_stage=stage, cpus=0.5), str(start))

    async def train():
        await group.start()
        try:
            await group.update(batch, advantages, 0)
            await group.save(tmp_path / "saved")
            return await group.logprobs(batch.samples)
        finally:
            await group.close()

    seen = asyncio.run(train())
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token_id == tiny.END
    model, on_disk = AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), load_file(tmp_path / "saved" / "model.safetensors")
    assert ("lm_head.weight" in on_disk) is not tied
    with torch.no_grad():
        for sample, found in zip(batch.samples, seen, strict=True):
            np.testing.assert_allclose(found, plain_logprobs(model, sample).numpy(), atol=1e-5, rtol=0)
    assert distance(on_disk, load_file(start / "model.safetensors")) > 0.1


def test_value_from_the_policy_gets_a_head_and_saves_as_a_classifier(cluster, batch, policy_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    group = ValueGroup(configuration("value", zero_stage=3, workers=2, cpus=0.5), str(policy_folder))

    async def train():
        await group.start()
        try:
            await group.prepare(batch)
            await group.save(tmp_path / "saved")
            return await group.prepare(batch)
        finally:
            await group.close()

    _, metrics = asyncio.run(train())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        values = torch.cat([plain_values(model, sample) for sample in batch.samples])
    assert 0.02 < float(values.std()) < 2.0
    assert metrics["value"] == pytest.approx(float(values.mean()), abs=1e-5)


def test_a_rank_that_fails_is_named(cluster, tmp_path):
    group = PolicyGroup(configuration("policy", cpus=0.5), str(tmp_path))
    with pytest.raises(Exception, match="config.json"):
        asyncio.run(group.start())
    asyncio.run(group.close())


def test_nobody_waits_for_ever(groups):
    late = groups[2].call("hang", seconds=0.2, what="update of version 0")
    with pytest.raises(RunError, match=r"policy rank \d: update of version 0 did not end within 0.2 s"):
        asyncio.run(late)


LORA = {"rank": 4, "alpha": 8.0}


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


def adapter_of(weights: dict) -> dict:
    return {name: tensor for name, tensor in weights.items() if ".lora_" in name}


@pytest.mark.parametrize("ranks,section", [
    long(1, {"zero_stage": 0}), (2, {"zero_stage": 2}), long(2, {"zero_stage": 3}),
    long(2, {"zero_stage": 2, "dtype": "bfloat16"}),
], ids=lambda value: str(value).strip("{}").replace("'", ""))
def test_an_adapter_is_all_that_is_trained_and_saved(groups, batch, advantages, tmp_path, ranks, section):
    config = configuration("policy", workers=ranks, lora=LORA, **SETTINGS | section)
    expected, metrics = groups[ranks].train_and_save(config, batch, advantages, tmp_path)
    held, again, found = groups[ranks].restore_and_train(config, batch, advantages, tmp_path)
    assert timeless(again) == timeless(metrics) and all(torch.equal(found[name], expected[name]) for name in expected)
    assert distance(adapter_of(held), adapter_of(expected)) > 1e-3
    assert all(torch.equal(held[name], expected[name]) for name in expected.keys() - adapter_of(expected).keys())
    size = sum(path.stat().st_size for path in tmp_path.glob("rank-*.safetensors"))
    assert size < 13 * sum(tensor.numel() for tensor in adapter_of(expected).values()) + 30_000 * ranks


@pytest.mark.parametrize("section", [
    long({"zero_stage": 2}), long({"zero_stage": 3}), long({"zero_stage": 2, "gradient_checkpointing": True}),
    {"zero_stage": 3, "gradient_checkpointing": True},
], ids=lambda value: str(value).strip("{}").replace("'", ""))
def test_an_adapters_update_does_not_depend_on_the_cut(groups, batch, advantages, section):
    config = configuration("policy", {"tokens_per_microbatch": 100_000}, zero_stage=0, lora=LORA)
    whole, _ = groups[1].policy(config, batch, advantages)
    cut, _ = groups[2].policy(configuration("policy", workers=2, lora=LORA, **section), batch, advantages)
    assert max(float(tensor.abs().max()) for name, tensor in whole.items() if "lora_B" in name) > 1e-3
    same(cut, whole)


@pytest.mark.parametrize("ranks,stage", [long(1, 0), (2, 3)])
def test_an_adapted_policy_is_saved_whole_and_as_an_adapter(groups, policy_folder, batch, advantages, tmp_path, ranks, stage):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = configuration("policy", workers=ranks, zero_stage=stage, lora=LORA)
    expected = groups[ranks].train_and_export(config, batch, advantages, tmp_path / "model")
    base = AutoModelForCausalLM.from_pretrained(policy_folder)
    with torch.no_grad():
        untrained = [plain_logprobs(base, sample).numpy() for sample in batch.samples]
        for model in (AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
                      PeftModel.from_pretrained(base, tmp_path / "model" / "adapter")):
            found = [plain_logprobs(model, sample).numpy() for sample in batch.samples]
            np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-5)
    assert np.abs(np.concatenate(untrained) - np.concatenate(expected)).max() > 1e-2


@pytest.mark.parametrize("ranks,stage", [long(1, 0), long(2, 2), (2, 3)])
def test_the_policy_without_its_adapter_stays_the_reference(groups, policy_folder, batch, advantages, ranks, stage):
    from transformers import AutoModelForCausalLM

    config = configuration("policy", workers=ranks, zero_stage=stage, lora=LORA)
    undisturbed, _ = groups[ranks].policy(config, batch, advantages, (0, 1))
    references, found = groups[ranks].train_with_reference(config, batch, advantages)
    assert all(torch.equal(found[name], undisturbed[name]) for name in undisturbed)
    base = AutoModelForCausalLM.from_pretrained(policy_folder)
    with torch.no_grad():
        expected = np.concatenate([plain_logprobs(base, sample).numpy() for sample in batch.samples])
    for reference in references:
        np.testing.assert_allclose(np.concatenate(reference), expected, atol=1e-5)


def test_a_value_model_with_an_adapter_trains_its_head_too(groups, value_folder, batch):
    config = configuration("value", zero_stage=2, learning_rate=0.05, lora=LORA)
    *_, found = groups[1].value(value_folder, config, batch)
    start = load_file(value_folder / "model.safetensors")
    assert not torch.equal(found["score.weight"], start["score.weight"])
    assert torch.equal(found["model.layers.0.mlp.up_proj.base_layer.weight"], start["model.layers.0.mlp.up_proj.weight"])
    assert all(tensor.abs().max() > 0 for name, tensor in found.items() if "lora_B" in name)
