"""Alignment without a reward model: TRL's trainers against plain loops, however a step is cut, and up to the known optimum."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scale_rlhf.config.schema import ModelSection, RunConfig
from scale_rlhf.config.supervised import DpoSection
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages import dpo
from scale_rlhf.training.layout import lay_out
from scale_rlhf.training.resuming import CHECKPOINTS, going_on
from scale_rlhf.training.supervised import Job, write_inputs
from tests.integration import three_tokens as task
from tests.integration.test_supervised import in_one_process, max_gap, steps
from tests.tiny import tiny_policy, tiny_tokenizer

# 20 samples in steps of 7: the last step is short. A large epsilon, so that rounding does not decide where a weight goes.
SETTINGS = {"batch_size": 7, "microbatch": 7, "zero_stage": 0, "learning_rate": 3e-3, "schedule": "constant", "epsilon": 1e-3,
            "max_gradient_norm": 1e3, "beta": 0.5, "save_every": None}
VARIANTS = {
    "dpo": {}, "ipo": {"loss": "ipo"}, "cdpo": {"loss": "cdpo", "label_smoothing": 0.2},
    "kto": {"loss": "kto", "good_weight": 1.5, "bad_weight": 0.75},
    "dpo, small forwards": {"microbatch": 3}, "dpo, checkpointing": {"gradient_checkpointing": True},
    "dpo, zero 2": {"zero_stage": 2},
    "dpo, zero 3": {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    "ipo, small forwards": {"loss": "ipo", "microbatch": 3},
    "kto, small forwards": {"loss": "kto", "good_weight": 1.5, "bad_weight": 0.75, "microbatch": 3},
    "bfloat16": {"dtype": "bfloat16"},
}
AT_START = {"dpo": math.log(2), "ipo": 1 / (4 * 0.5**2), "cdpo": math.log(2), "bfloat16": math.log(2)}


def tokens(random, least, most):
    return random.integers(4, 300, random.integers(least, most + 1)).tolist()


def random_rows(kind, count=20):
    from datasets import Dataset

    random = np.random.default_rng(0)
    if kind == "dpo":
        return Dataset.from_list([
            {"prompt_ids": tokens(random, 2, 6), "chosen_ids": tokens(random, 1, 6), "rejected_ids": tokens(random, 1, 6)}
            for _ in range(count)])
    return Dataset.from_list([
        {"prompt_ids": tokens(random, 2, 6), "completion_ids": tokens(random, 1, 6), "KL_completion_ids": tokens(random, 1, 6),
         "label": place % 3 > 0} for place in range(count)])


def job(folder, start, settings, rows=None) -> Job:
    from transformers import AutoTokenizer

    section = DpoSection(**SETTINGS | settings)
    kind = "kto" if section.loss == "kto" else "dpo"
    rows = rows or random_rows(kind)
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(folder / "from"))
    layout = lay_out([10] * len(rows), section, 0)
    made = Job(kind, section, ModelSection(), str(start), 0, layout, folder, folder / "out", False)
    write_inputs(made, tokenizer, rows, rows.select(range(6)))
    return made


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory):
    """{variant: (its job, what it measured)}, and "… resumed" from the checkpoint after step 1, in one process."""
    folder = tmp_path_factory.mktemp("preferences")
    start = tiny_policy(folder / "start")
    jobs = {name: job(folder / name, start, settings) for name, settings in VARIANTS.items()}
    for loss in ("dpo", "kto"):
        saved = {"loss": loss, "save_every": 1}
        jobs[f"{loss}, saved"] = going_on(job(folder / f"{loss}, saved", start, saved), "dpo", "dpo")
    found = dict(zip(jobs, in_one_process(cluster, list(jobs.values())), strict=True))
    for loss in ("dpo", "kto"):
        again = job(folder / f"{loss}, resumed", start, {"loss": loss, "save_every": 1})
        kept = jobs[f"{loss}, saved"].work / CHECKPOINTS / "checkpoint-1"
        (again.work / CHECKPOINTS).mkdir()
        kept.rename(again.work / CHECKPOINTS / "checkpoint-1")
        jobs[f"{loss}, resumed"] = going_on(again, "dpo", "dpo")
    names = [name for name in jobs if name.endswith("resumed")]
    found |= dict(zip(names, in_one_process(cluster, [jobs[name] for name in names]), strict=True))
    return {name: (jobs[name], found[name]) for name in jobs}


@pytest.mark.parametrize("name", AT_START)
def test_the_first_loss_is_that_of_a_policy_that_is_its_reference(trained, name):
    assert steps(trained[name][0])[0] == pytest.approx(AT_START[name], abs=1e-6)


def test_the_first_loss_of_kto_is_half_of_each_weight(trained):
    job = trained["kto"][0]
    labels = random_rows("kto").select(job.layout.order[:7])["label"]
    assert steps(job)[0] == pytest.approx(np.mean([0.5 * (1.5 if good else 0.75) for good in labels]), abs=1e-6)
    assert steps(job, "kl")[0] == 0.0


def logprob(model, prompt, answer):
    ids = torch.tensor([prompt + answer])
    logprobs = torch.log_softmax(model(ids).logits[0, :-1], -1)
    return logprobs[len(prompt) - 1 :].gather(-1, ids[0, len(prompt) :, None]).sum()


def plain_losses(model, reference, batch, section):
    """The loss of every sample of a step, from the papers, one sample at a time."""
    def ratio(prompt, answer, of=model):
        with torch.no_grad():
            frozen = logprob(reference, prompt, answer)
        return logprob(of, prompt, answer) - frozen

    if section.loss == "kto":
        with torch.no_grad():
            point = max(0.0, float(np.mean([ratio(row["prompt_ids"], row["KL_completion_ids"]) for row in batch])))
        for row in batch:
            over = section.beta * (ratio(row["prompt_ids"], row["completion_ids"]) - point)
            weight, over = (section.good_weight, over) if row["label"] else (section.bad_weight, -over)
            yield weight * (1 - torch.sigmoid(over))
        return
    for row in batch:
        chosen, rejected = (ratio(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids"))
        if section.loss == "ipo":
            yield (chosen / len(row["chosen_ids"]) - rejected / len(row["rejected_ids"]) - 1 / (2 * section.beta)) ** 2
            continue
        wrong = section.label_smoothing if section.loss == "cdpo" else 0.0
        x = section.beta * (chosen - rejected)
        yield -(1 - wrong) * torch.nn.functional.logsigmoid(x) - wrong * torch.nn.functional.logsigmoid(-x)


@pytest.mark.parametrize("name", ["dpo", "ipo", "cdpo", "kto"])
def test_each_loss_is_that_of_a_plain_loop(trained, name):
    """Losses and gradient norms of three steps, against transformers and torch alone, sample by sample."""
    from transformers import AutoModelForCausalLM

    job = trained[name][0]
    model, reference = (AutoModelForCausalLM.from_pretrained(job.start, dtype=torch.float32) for _ in range(2))
    section, rows = job.section, random_rows(job.kind)
    rate = {"lr": section.learning_rate, "betas": section.betas, "eps": section.epsilon, "weight_decay": 0.0}
    adam = torch.optim.AdamW(model.parameters(), **rate)
    for step, order in enumerate(job.layout.order.reshape(job.layout.steps, -1)):
        batch = [rows[int(place)] for place in order if place >= 0]
        loss = torch.stack(list(plain_losses(model, reference, batch, section))).mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        adam.step()
        assert steps(job)[step] == pytest.approx(loss.item(), rel=2e-4)
        assert steps(job, "grad_norm")[step] == pytest.approx(norm.item(), rel=2e-3)
    assert step == 2 and len(batch) == 6


@pytest.mark.parametrize("name", [name for name in VARIANTS if ", " in name])
def test_how_a_step_is_cut_does_not_matter(trained, name):
    (one, said), (plain, expected) = trained[name], trained[name.split(",")[0]]
    assert steps(one) == pytest.approx(steps(plain), rel=1e-5) and said == pytest.approx(expected, rel=1e-4)
    assert steps(one, "grad_norm") == pytest.approx(steps(plain, "grad_norm"), rel=1e-4)
    assert max_gap(one.out, plain.out) < 1e-5


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_stopped_stage_goes_on_bit_for_bit(trained, loss):
    whole, resumed = trained[f"{loss}, saved"][0], trained[f"{loss}, resumed"][0]
    assert resumed.done == 1 and steps(resumed) == steps(whole)[1:]
    one, other = (load_file(made.out / "model.safetensors") for made in (whole, resumed))
    assert all(one[key].equal(other[key]) for key in one)


def test_what_is_told_of_a_step(trained):
    job, said = trained["dpo"]
    assert said["pairs"] == 6 and said["accuracy"] > 0.5 and said["margin"] > 0  # of rows that were trained on, here
    margins = steps(job, "margin")
    assert margins[0] == pytest.approx(0, abs=1e-6) and abs(margins[-1]) > 1e-3
    rewards = zip(steps(job, "chosen_reward"), steps(job, "rejected_reward"), strict=True)
    assert [chosen - rejected for chosen, rejected in rewards] == pytest.approx(margins, abs=1e-6)


PROMPT = [int(token) for token in task.PROMPT]
PAIRS = 16_000


def three_token_pairs(reference):
    """About PAIRS preferences, P(a over b) = σ(r(a) − r(b)), drawn systematically.

    Answers come seven times of ten from π*, else from all alike: where they come from decides which part of the policy is
    fitted first, not where the optimum is.
    """
    from datasets import Dataset

    random, rows = np.random.default_rng(0), []
    shown = 0.7 * task.optimum(reference) + 0.3 / len(task.SEQUENCES)
    for (a, p), (b, q) in itertools.permutations(zip(task.SEQUENCES, shown, strict=True), 2):
        wins = 2 * PAIRS * p * q / (1 + math.exp(task.TABLE[b] - task.TABLE[a]))
        rows += [{"prompt_ids": PROMPT, "chosen_ids": list(a), "rejected_ids": list(b)}] * math.floor(wins + random.random())
    return Dataset.from_list(rows)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_dpo_reaches_the_optimum_that_ppo_reaches(cluster, tmp_path):
    """From preferences that the three-token task's reward makes: π* ∝ π_ref·exp(r/β), as in test_ppo_optimum.py."""
    start = tiny_policy(tmp_path / "start", vocabulary=task.SYMBOLS, tied=False, tokenizer=False)
    reference = task.distribution(start)
    assert task.total_variation(reference, task.optimum(reference)) >= 0.4
    settings = {"beta": task.BETA, "batch_size": 1024, "microbatch": 1024, "epochs": 24.0, "schedule": "linear", "epsilon": 1e-8,
                "max_gradient_norm": 1.0, "zero_stage": 1}
    made = job(tmp_path / "dpo", start, settings, three_token_pairs(reference))
    in_one_process(cluster, [made])
    far = task.total_variation(task.distribution(made.out), task.optimum(reference))
    print("steps", made.layout.steps, "total variation", far)
    assert far < 0.05


PLACES = ["France", "Bolivia", "Peru", "Chad", "Fiji", "Cuba", "Laos", "Mali", "Oman", "Togo"]
QUESTIONS = [f"What is {what} of {place}?" for place in PLACES for what in ("the capital", "the largest city")]


def in_a_run(tmp_path, rows, **section):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig.model_validate({
        "model": {"path": str(tiny_policy(tmp_path / "start"))}, "data": {"preferences": str(file), "hold_out": 0.3},
        "dpo": {"max_steps": 6, "epochs": 10, "batch_size": 7, "microbatch": 2, "learning_rate": 1e-3, "zero_stage": 2,
                **section}})
    folder = RunFolder(tmp_path / "run")
    return folder, dpo.run(config, folder)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_stage_learns_good_and_bad_with_two_workers(cluster, tmp_path):
    rows = [{"prompt": question, "response": "A very good answer." if good else "No.", "good": good}
            for question in QUESTIONS for good in (True, False)]
    folder, said = in_a_run(tmp_path, rows, loss="kto", workers=2, held_out_every=3)
    lines = [json.loads(line) for line in folder.metrics("dpo").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "held_out_accuracy" in line] == [3, 6]
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-6) and lines[-1]["loss"] < 0.5
    assert said["accuracy"] == 1.0 and said["margin"] > 0
    assert lines[-1]["held_out_margin"] == pytest.approx(said["margin"])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.model("dpo").iterdir()}
