"""base, sft and reward on a few dozen rows: TRL under Ray Train over DeepSpeed, as in a run."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scale_rlhf.config.schema import ModelSection, RunConfig
from scale_rlhf.config.supervised import RewardModelSection, SftSection
from scale_rlhf.data.chat import dialogue_ids
from scale_rlhf.errors import ConfigError, DataError, RunError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages import base, reward_model, sft
from scale_rlhf.training.layout import lay_out
from scale_rlhf.training.ray_train import RayTrainRun
from scale_rlhf.training.supervised import Job, write_inputs
from tests.tiny import tiny_policy

PLACES = ["France", "Bolivia", "Peru", "Chad", "Fiji", "Cuba", "Laos", "Mali"]
SCRATCH = {
    "hidden_size": 64, "layers": 1, "heads": 2, "key_value_heads": 1, "intermediate_size": 96, "vocabulary": 300, "context": 128,
}
SMALL = {"max_steps": 4, "batch_size": 8, "microbatch": 8, "max_tokens": 64, "zero_stage": 0}


def rows(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    things = ("the capital", "the largest city", "a good museum")
    questions = [f"What is {what} of {place}?" for place in PLACES for what in things]
    return {
        "base_text": rows(folder / "base.jsonl", [{"text": question} for question in questions * 4]),
        "instructions": rows(folder / "sft.jsonl", [
            {"prompt": q, "response": "Ask " + "me " * (i % 7) + "later."} for i, q in enumerate(questions)]),
        "preferences": rows(folder / "ratings.jsonl", [
            {"prompt": q, "responses": ["A very good answer.", "No."], "ratings": [[5, 4], [1, 0]]} for q in questions]),
        "hold_out": 0.2,
    }


def configured(data, **sections):
    sections = {"base": SMALL, "sft": SMALL, "reward_model": SMALL, "model": {"scratch": SCRATCH}} | sections
    return RunConfig.model_validate({"data": data, **sections})


@pytest.fixture(scope="module")
def made(cluster, data, tmp_path_factory):
    """One run of the three stages: the folder, the configuration and what each stage said of itself."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    longer = SMALL | {"max_steps": 6, "epochs": 10, "learning_rate": 1e-2}
    config = configured(data, base=longer, sft=longer, reward_model=longer)
    said = {name: stage.run(config, folder) for name, stage in (("base", base), ("sft", sft), ("reward", reward_model))}
    return folder, config, said


def metrics(folder, stage):
    return [json.loads(line) for line in folder.metrics(stage).read_text().splitlines()]


def losses(folder, stage):
    return [line["loss"] for line in metrics(folder, stage)]


def test_each_stage_learns_and_says_how_well(made):
    folder, _, said = made
    for stage in ("base", "sft", "reward"):
        assert [line["step"] for line in metrics(folder, stage)] == list(range(1, 7))
        assert losses(folder, stage)[-1] < 0.8 * losses(folder, stage)[0]
        assert said[stage]["parameters"] > 10_000 and said[stage]["seconds"] > 0
    assert said["base"]["perplexity"] == pytest.approx(math.exp(said["base"]["held_out_loss"]))
    assert said["base"]["perplexity"] < 200
    assert said["sft"]["held_out_loss"] < losses(folder, "sft")[0]
    assert said["reward"]["accuracy"] == 1.0 and 0 <= said["reward"]["calibration_error"] <= 0.5 and said["reward"]["pairs"] >= 1


def test_models_stand_whole_with_their_tokenizers_and_nothing_else_is_left(made):
    folder, _, _ = made
    for stage in ("base", "sft", "reward"):
        names = {path.name for path in folder.model(stage).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
        assert not any(name.endswith((".bin", ".pt")) for name in names)
        assert "lm_head.weight" not in load_file(folder.model(stage) / "model.safetensors")  # tied: written once
        told = ["progress.jsonl", "quality.json"] if stage == "reward" else ["progress.jsonl"]
        assert sorted(path.name for path in folder.stage(stage).iterdir()) == told
    assert sorted(path.name for path in (folder.path / "models").iterdir()) == ["base", "reward", "sft"]


def test_the_loss_is_on_the_response_alone(made):
    from transformers import AutoTokenizer

    folder, _, _ = made
    tokenizer = AutoTokenizer.from_pretrained(folder.model("base"))
    messages = [{"role": "user", "content": "What is the capital of Peru?"}, {"role": "assistant", "content": "Ask me later."}]
    row = sft.labelled([messages], tokenizer, 64)[0]
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != sft.NO_LOSS]
    assert tokenizer.decode(learned) == "Ask me later.<|end|>"
    assert all(label in (sft.NO_LOSS, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    assert len(sft.labelled([messages], tokenizer, 4)) == 0  # cut before the response begins


def test_the_reward_model_scores_the_same_in_plain_transformers_and_packed(made):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from scale_rlhf.experience.packing import pack
    from scale_rlhf.experience.sample import Prompt, Sample
    from scale_rlhf.models.forward import sample_scores
    from scale_rlhf.models.loading import load_scalar

    folder = made[0].model("reward")
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert plain.config.num_labels == 1 and plain.config.pad_token_id != plain.config.eos_token_id
    texts = [("What is the capital of Peru?", "A very good answer."), ("Hello", "No.")]
    rows = [dialogue_ids(tokenizer, [{"role": "user", "content": p}, {"role": "assistant", "content": r}]) for p, r in texts]
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in rows]}, return_tensors="pt", padding_side="right")
    samples = []
    for place, (ids, said) in enumerate(rows):
        begins = said.index(True)
        prompt, response = np.array(ids[:begins], np.int32), np.array(ids[begins:], np.int32)
        nothing = np.zeros(len(response), np.int32)
        samples.append(Sample(Prompt(place, place, prompt), response, nothing.astype(np.float32), nothing, True))
    with torch.no_grad():
        expected = plain(**{key: padded[key] for key in ("input_ids", "attention_mask")}).logits[:, 0]
        assert torch.allclose(sample_scores(load_scalar(str(folder)), pack(samples)), expected, atol=1e-5)
    assert expected[0] > expected[1]


VARIANTS = {
    "plain": {}, "again": {}, "small forwards": {"microbatch": 3}, "checkpointing": {"gradient_checkpointing": True},
    "zero 1": {"zero_stage": 1}, "zero 2": {"zero_stage": 2},
    "zero 3": {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    "decay": {"weight_decay": 5.0}, "betas": {"betas": (0.5, 0.6)}, "epsilon": {"epsilon": 1e-2},
    "norm": {"max_gradient_norm": 1e-3}, "rate": {"learning_rate": 2e-3}, "schedule": {"schedule": "cosine"},
    "warm-up": {"warmup_steps": 2}, "steps": {"max_steps": 2}, "noise": {"neftune_alpha": 10.0},
    "measured": {"held_out_every": 2},
    "bfloat16": {"dtype": "bfloat16", "zero_stage": 2}, "autocast": {"dtype": "bfloat16", "autocast": True, "zero_stage": 2},
}
ALIKE = ("again", "small forwards", "checkpointing", "zero 1", "zero 2", "zero 3", "measured")
PLAIN = SMALL | {"schedule": "linear", "batch_size": 7, "max_steps": None}


@pytest.fixture(scope="module")
def variants(made, cluster, data, tmp_path_factory):
    """The sft stage once for each of VARIANTS, and the reward stage, from one base model, in one process without Ray Train."""
    folder = tmp_path_factory.mktemp("variants")
    jobs = {name: job(folder / name, made, data, PLAIN | values) for name, values in VARIANTS.items()}
    jobs["reward"] = job(folder / "reward", made, data, PLAIN, kind="reward")
    whole = PLAIN | {"epochs": 2, "max_tokens": 128, "batch_size": 24}  # all rows in a step: the same step, packed or not
    jobs["unpacked"] = job(folder / "unpacked", made, data, whole)
    jobs["packed"] = job(folder / "packed", made, data, whole, packed=True)
    measures = in_one_process(cluster, list(jobs.values()))
    return {name: (jobs[name], measure) for name, measure in zip(jobs, measures, strict=True)}


def job(folder, made, data, settings, kind="language", packed=False):
    """A job on all rows of the data, measured on the first five, from the base model of `made`."""
    from scale_rlhf.config.schema import DataSource
    from scale_rlhf.data import read
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.data.feedback import of_pair

    start = str(made[0].model("base"))
    tokenizer = load_tokenizer(start, made[1].model)
    section = (RewardModelSection if kind == "reward" else SftSection)(**settings)
    if kind == "reward":
        preferences = read.preferences(DataSource(path=data["preferences"]))
        rows = reward_model.pairs(preferences, tokenizer, section.max_tokens, margin=False)
        first = reward_model.judged(map(of_pair, preferences.select(range(5))), tokenizer, section.max_tokens)
    else:
        rows = sft.labelled(read.instructions(DataSource(path=data["instructions"]))["messages"], tokenizer, section.max_tokens)
        first = rows.select(range(5))
    if packed:
        rows = sft.packed(rows, section.max_tokens)
        section.batch_size = len(rows)
    layout = lay_out([len(row.get("input_ids") or row["chosen_ids"]) for row in rows], section, 0)
    folder.mkdir()
    work = Job(kind, section, ModelSection(), start, 0, layout, folder, folder / "out", packed)
    write_inputs(work, tokenizer, rows, first)
    return work


def in_one_process(cluster, jobs):
    def work_on(jobs):
        import os

        import torch.distributed as dist
        from accelerate.state import AcceleratorState, PartialState

        from scale_rlhf.training.process_group import free_port
        from scale_rlhf.training.supervised_worker import work

        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        dist.init_process_group("gloo")
        measures = []
        for one in jobs:
            AcceleratorState._reset_state(reset_partial_state=True)
            PartialState._reset_state()
            measures.append(work({"job": one}))
        return measures

    return cluster.get(cluster.remote(num_cpus=1, max_calls=1)(work_on).remote(jobs), timeout=200)


def steps(job, key="loss"):
    return [json.loads(line)[key] for line in (job.work / "progress.jsonl").read_text().splitlines()]


def numbers(measures):
    return {name: value for name, value in measures.items() if name != "report"}


def max_gap(first, second):
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def test_the_first_loss_is_that_of_the_responses_under_the_base_model(made, variants):
    """What TRL reports at step 1 is the cross-entropy that plain transformers finds on the response tokens of that batch."""
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM

    plain = variants["plain"][0]
    model = AutoModelForCausalLM.from_pretrained(made[0].model("base"), dtype=torch.float32)
    picked = []
    for row in load_from_disk(plain.work / "rows").select(plain.layout.order[:7]):
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids[None]).logits[0, :-1].float(), -1)
        picked.append(logprobs.gather(-1, ids[1:, None])[labels[1:] != sft.NO_LOSS])
    assert steps(plain)[0] == pytest.approx(-torch.cat(picked).mean().item(), abs=2e-5)


@pytest.mark.parametrize("name", ALIKE)
def test_what_must_not_matter_does_not(variants, name):
    """Batches of 7 in forwards of 3, with a short last step; ZeRO; recomputed activations."""
    (one, said), (plain, expected) = variants[name], variants["plain"]
    assert steps(one) == pytest.approx(steps(plain), rel=1e-5) and said == pytest.approx(expected, rel=1e-5)
    assert max_gap(one.out, plain.out) < (1e-5 if name != "again" else 1e-9)


@pytest.mark.parametrize("name", ["zero 1", "zero 2", "zero 3", "small forwards"])
def test_the_gradient_norm_is_reported_and_the_same_at_every_zero_stage(variants, name):
    norms = steps(variants["plain"][0], "grad_norm")  # without ZeRO, where DeepSpeed keeps none
    assert len(norms) == 4 and min(norms) > 0
    assert steps(variants[name][0], "grad_norm") == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ALIKE + ("plain",)])
def test_each_setting_has_an_effect(variants, name):
    assert max_gap(variants[name][0].out, variants["plain"][0].out) > 1e-5


def test_packed_samples_do_not_see_each_other(variants):
    (packed, said), (plain, expected) = variants["packed"], variants["unpacked"]
    assert len(packed.layout.order) < len(plain.layout.order) and len(steps(packed)) == 2
    assert steps(packed) == pytest.approx(steps(plain), rel=1e-5) and said == pytest.approx(expected, rel=1e-5)


def test_the_held_out_loss_is_measured_on_the_way(variants):
    job, said = variants["measured"]
    lines = [json.loads(line) for line in (job.work / "progress.jsonl").read_text().splitlines()]
    found = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    assert list(found) == [2, 4] and found[4] == pytest.approx(said["held_out_loss"]) and found[2] > found[4]


def test_learning_rates(variants):
    for name, rates in (("plain", [1e-3, 7.5e-4, 5e-4, 2.5e-4]), ("warm-up", [5e-4, 1e-3, 1e-3, 5e-4]), ("steps", [1e-3, 5e-4])):
        assert steps(variants[name][0], "learning_rate") == pytest.approx(rates)


def test_bfloat16(variants):
    exact = steps(variants["plain"][0])
    for name, kept in (("bfloat16", torch.bfloat16), ("autocast", torch.float32)):
        rounded, _ = variants[name]
        assert steps(rounded) == pytest.approx(exact, rel=0.02) and steps(rounded) != exact
        assert {weight.dtype for weight in load_file(rounded.out / "model.safetensors").values()} == {kept}


@pytest.mark.parametrize("kind, sharding", [
    ("language", {"zero_stage": 2}), ("reward", {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}),
])
def test_two_workers_train_as_one(made, variants, data, tmp_path, kind, sharding):
    """A batch of 7 divides by neither 2 workers nor forwards of 2; the last step is short."""
    alone, expected = variants["plain" if kind == "language" else "reward"]
    both = job(tmp_path / "two", made, data, PLAIN | {"workers": 2, "microbatch": 2} | sharding, kind)
    run = RayTrainRun(both, tmp_path / "two" / "ray", start_seconds=60)
    while not run.finished(seconds=1):
        pass
    assert numbers(run.result(kind)) == pytest.approx(numbers(expected), rel=1e-3)
    assert steps(both) == pytest.approx(steps(alone), rel=1e-4) and len(steps(both)) == 4
    assert max_gap(both.out, alone.out) < 1e-4


def test_a_margin_asks_for_more(made, variants):
    """Every pair's margin is 4, and the scores start near each other: log(1 + e^4) against log 2."""
    assert losses(made[0], "reward")[0] > 3
    assert steps(variants["reward"][0])[0] < 1.5


def test_a_worker_that_fails_is_heard(made, data, tmp_path):
    broken = tiny_policy(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises((RunError, ConfigError), match="sft|broken"):
        sft.run(configured(data, sft=SMALL | {"model": str(broken)}), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run" / "models" / "sft").exists()


def test_nothing_to_train_on_is_an_error(made, data, tmp_path):
    with pytest.raises(DataError, match="max_tokens"):
        sft.run(configured(data, sft=SMALL | {"model": str(made[0].model("base")), "max_tokens": 2}), RunFolder(tmp_path))
