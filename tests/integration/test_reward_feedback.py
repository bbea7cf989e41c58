"""Reward models from ratings, rankings, good and bad, and by aspect: trained as a run does, served, and judged."""

import asyncio
import json
import random

import pytest
import torch

from scale_rlhf.config.schema import ModelSection, PracticeSection, RunConfig
from scale_rlhf.config.supervised import RewardModelSection
from scale_rlhf.data.feedback import judgements
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages import base, reward_model, sft
from scale_rlhf.training.layout import lay_out
from scale_rlhf.training.ray_train import RayTrainRun
from scale_rlhf.training.supervised import Job, write_inputs
from tests.integration.test_supervised import in_one_process, max_gap, numbers, steps
from tests.tiny import samples, tiny_policy

WORDS = {1: "No. I do not know that place.", 2: "Ask me later.", 3: "The capital is Paris.", 4: "The capital of France is Paris."}
SETTINGS = {
    "batch_size": 7, "microbatch": 3, "max_tokens": 64, "zero_stage": 2, "epochs": 2, "schedule": "constant",
    "learning_rate": 1e-3,
}
ASPECTS = ["helpful", "honest"]


def prompts(count):
    return [f"What is the capital of {'very ' * (i % 3)}France {i}?" for i in range(count)]


def written(folder, rows, name="rows"):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(kind, count):
    """Better answers are longer here; the aspects disagree, and some are not rated."""
    draw = random.Random(0)
    for prompt in prompts(count):
        marks = draw.sample(sorted(WORDS), draw.choice([2, 3, 4]))
        responses = [WORDS[mark] for mark in marks]
        if kind == "binary":
            yield {"prompt": prompt, "response": responses[0], "good": marks[0] > 2}
        elif kind == "rankings":
            yield {"prompt": prompt, "responses": responses, "ranks": [1 if mark > 2 else 6 - mark for mark in marks]}
        elif kind == "aspects":
            ratings = {"helpful": marks} | ({"honest": [5 - mark for mark in marks]} if draw.random() < 0.7 else {})
            yield {"prompt": prompt, "responses": responses, "ratings": ratings}
        else:
            yield {"prompt": prompt, "responses": responses, "ratings": marks}


def job(folder, start, kind, **settings):
    """A job on 26 prompts, measured on 8 of them."""
    from scale_rlhf.config.schema import DataSource
    from scale_rlhf.data.chat import load_tokenizer

    folder.mkdir()
    tokenizer, feedback = load_tokenizer(str(start), ModelSection()), "ratings" if kind == "aspects" else kind
    section = RewardModelSection(feedback=feedback, aspects=ASPECTS if kind == "aspects" else [], **SETTINGS | settings)
    found = judgements(DataSource(path=written(folder, rows_of(kind, 26))), section.feedback, section.aspects)
    rows = reward_model.judged(found, tokenizer, section.max_tokens, alone=feedback in ("ratings", "binary"))
    layout = lay_out([max(map(len, row["texts"])) for row in rows], section, 0)
    work = Job("judged", section, ModelSection(), str(start), 0, layout, folder, folder / "out", False)
    write_inputs(work, tokenizer, rows, reward_model.judged(found.select(range(8)), tokenizer, section.max_tokens))
    return work


VARIANTS = {
    "ratings": {}, "comparisons": {}, "rankings": {}, "binary": {}, "aspects": {}, "comparisons otherwise cut": {"microbatch": 7},
    "rankings otherwise cut": {"microbatch": 7}, "aspects sharded": {"zero_stage": 3, "microbatch": 7},
}


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory):
    """Every variant from one start, in one process without Ray Train: {name: (job, measures)}."""
    folder = tmp_path_factory.mktemp("feedback")
    start = tiny_policy(folder / "start")
    jobs = {name: job(folder / name, start, name.split()[0], **settings) for name, settings in VARIANTS.items()}
    measures = in_one_process(cluster, list(jobs.values()))
    return {name: (jobs[name], measure) for name, measure in zip(jobs, measures, strict=True)}


@pytest.mark.parametrize("kind", ["ratings", "comparisons", "rankings", "binary", "aspects"])
def test_each_kind_is_learned_and_judged(trained, kind):
    one, said = trained[kind]
    assert steps(one)[-1] < 0.9 * steps(one)[0]
    assert said["judged_right"] > 0.6 if kind == "binary" else said["accuracy"] > 0.6 and said["pairs"] > 8
    assert "calibration_error" in said and said["report"]["feedback"] == one.section.feedback
    assert list(said["report"]["aspects"]) == (ASPECTS if kind == "aspects" else ["score"])


@pytest.mark.parametrize("name", ["comparisons otherwise cut", "rankings otherwise cut", "aspects sharded"])
def test_a_step_is_the_same_however_it_is_cut(trained, name):
    """Rows of 2, 3 or 4 responses, aspects that some rows lack, a short last step: divided by what was said in the whole step."""
    (one, said), (plain, expected) = trained[name], trained[name.split()[0]]
    assert steps(one) == pytest.approx(steps(plain), rel=1e-4, abs=1e-5) and max_gap(one.out, plain.out) < 5e-4
    assert numbers(said) == pytest.approx(numbers(expected), rel=2e-3, abs=1e-3)


def test_the_first_loss_by_hand(trained):
    """Of the first step by aspect: plain transformers on each text, and the mean over the ratings that there are."""
    from datasets import load_from_disk

    from scale_rlhf.models.loading import load_aspects

    one = trained["aspects"][0]
    model, squares = load_aspects(one.start, ASPECTS, seed=one.seed), []
    for row in load_from_disk(one.work / "rows").select(one.layout.order[: one.section.batch_size]):
        with torch.no_grad():
            scores = model(torch.tensor(row["texts"])).logits[0].tolist()
        squares += [(score - target[0]) ** 2 for score, target in zip(scores, row["targets"], strict=True)]
    squares = [square for square in squares if square == square]  # NaN where an aspect was not rated
    assert len(squares) < 2 * one.section.batch_size
    assert steps(one)[0] == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_the_model_is_any_classifier_with_its_aspects_named(trained):
    from transformers import AutoModelForSequenceClassification

    for kind, labels in (("aspects", ASPECTS), ("rankings", ["LABEL_0"])):
        model = AutoModelForSequenceClassification.from_pretrained(trained[kind][0].out)
        assert [model.config.id2label[place] for place in range(model.config.num_labels)] == labels
        assert (trained[kind][0].out / "tokenizer.json").is_file() and model.config.pad_token_id is not None


@pytest.mark.long
def test_two_workers_under_ray_train_are_as_one(cluster, trained, tmp_path):
    alone, expected = trained["rankings"]
    both = job(tmp_path / "two", alone.start, "rankings", workers=2, microbatch=2)
    run = RayTrainRun(both, tmp_path / "two" / "ray", start_seconds=60)
    while not run.finished(seconds=1):
        pass
    assert numbers(run.result("reward")) == pytest.approx(numbers(expected), rel=2e-3, abs=1e-3)
    assert steps(both) == pytest.approx(steps(alone), rel=1e-4, abs=1e-5) and max_gap(both.out, alone.out) < 5e-4


def test_an_ensemble_is_served_with_its_aspects_mixed(cluster, trained):
    from scale_rlhf.reward.learned import LearnedReward

    first, second = trained["aspects"][0], trained["aspects sharded"][0]
    weights = {"helpful": 1.0, "honest": -0.5}
    config = RunConfig.model_validate({"reward": {"aspects": weights, "ensemble": [str(second.out)], "combine": "worst"}})
    given = samples(6)
    scores, metrics = asyncio.run(asked(LearnedReward(config, str(first.out), str(first.start)), given))
    mean = metrics["aspect_helpful_mean"] - 0.5 * metrics["aspect_honest_mean"]
    assert sum(scores) / len(scores) == pytest.approx(mean, abs=1e-2)  # both were trained alike, so the worst is near the mean
    assert 0 <= metrics["ensemble_deviation_mean"] < 1e-2 and metrics["samples"] == len(given)


async def asked(reward, given):
    """Scores and metrics of a reward that is started for it."""
    try:
        await reward.start(probe=given[:1])
        return await reward.score(given, fixed=True, group=0), await reward.metrics()
    finally:
        reward.close()


HOLD_OUT = 0.1
RATED = 4500  # prompts of four responses by three raters: 54,000 ratings, as in the quickstart; pairs of half as many gave 0.75
LEARNING = {"workers": 2, "zero_stage": 0, "learning_rate": 1e-3, "warmup_steps": 10, "max_tokens": 96, "save_every": None}
CUT = {"pairs": (16, 8), "ratings": (32, 16), "binary": (32, 16)}  # samples a step and a forward: 32 texts
CUT |= dict.fromkeys(("comparisons", "rankings"), (8, 4))


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory):
    """The practice world's ratings in every form, and a model tuned on its instructions, as in the quickstart."""
    from scale_rlhf.data.practice.write import write_world

    folder = RunFolder(tmp_path_factory.mktemp("world"))
    practice = PracticeSection(base_lines=7000, demonstrations=4000, rated_prompts=RATED)
    write_world(folder.data, practice)
    scratch = {"hidden_size": 128, "layers": 3, "intermediate_size": 384, "vocabulary": 1024, "context": 128}
    text = LEARNING | {"learning_rate": 3e-3, "batch_size": 4, "microbatch": 2, "max_tokens": 128}
    tuned = LEARNING | {"learning_rate": 2e-3, "epochs": 4}
    settings = {"data": {"practice": practice}, "model": {"scratch": scratch}, "base": text, "sft": tuned}
    for stage in (base, sft):
        stage.run(RunConfig.model_validate(settings), folder)
    rated = [json.loads(line) for line in (folder.data / "ratings.jsonl").read_text().splitlines()]
    means = [[sum(one) / len(one) for one in row["ratings"]] for row in rated]
    ranked = [{"prompt": row["prompt"], "responses": row["responses"], "ranks": [1 + sum(b > a for b in mean) for a in mean]}
              for row, mean in zip(rated, means, strict=True)]
    verdicts = [{"prompt": row["prompt"], "response": response, "good": one >= 2.5}
                for row, mean in zip(rated, means, strict=True) for response, one in zip(row["responses"], mean, strict=True)]
    ratings = str(folder.data / "ratings.jsonl")
    forms = {"pairs": ratings, "comparisons": ratings, "ratings": ratings, "rankings": written(folder.data, ranked, "ranked"),
             "binary": written(folder.data, verdicts, "verdicts")}
    return folder, forms


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("feedback", CUT)
def test_each_kind_of_feedback_ranks_held_out_pairs_right(world, tmp_path, feedback):
    """The same rated prompts told in four ways; judged on the same held-out pairs: those that differ in true quality, which no
    training knows, and those of mean ratings that differ by ½, of which the raters themselves got some wrong.
    """
    folder, forms = world
    made = RunFolder(tmp_path / "run")
    said = reward_model.run(learning_from(feedback, forms[feedback], folder), made)
    told = json.loads((made.stage("reward") / "quality.json").read_text())
    assert told["aspects"]["score"]["calibration"] and said["calibration_error"] == told["calibration_error"]
    (truth, true_pairs), (raters, rated_pairs) = ranked_right(made.model("reward"), folder, forms["ratings"])
    print(f"{feedback}: {truth:.3f} of {true_pairs} held-out pairs by true quality, {raters:.3f} of {rated_pairs} by the raters; "
          f"{said['seconds']:.0f} s; the stage said {numbers(said)}")
    assert true_pairs > 500 and truth >= 0.8 and raters >= 0.75


def learning_from(feedback: str, path: str, folder: RunFolder) -> RunConfig:
    batch, microbatch = CUT[feedback]
    settings = LEARNING | {"feedback": feedback, "model": str(folder.model("sft")), "batch_size": batch, "microbatch": microbatch}
    settings |= {"pairs": {"epochs": 1}, "comparisons": {"epochs": 2, "learning_rate": 2e-3}}.get(feedback, {"epochs": 3})
    return RunConfig.model_validate({"data": {"preferences": path, "hold_out": HOLD_OUT}, "reward_model": settings})


def ranked_right(model_folder, folder: RunFolder, ratings: str) -> list[tuple[float, int]]:
    """By true quality, and by the raters: share of the held-out pairs that plain transformers ranks right, and their number."""
    from transformers import AutoTokenizer

    from scale_rlhf.data.sources import sources
    from scale_rlhf.stages.evaluation_judging import find_judge
    from scale_rlhf.stages.evaluation_ranking import held_out_pairs

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config = RunConfig.model_validate({"data": {"practice": {}, "hold_out": HOLD_OUT}})
    by_truth = held_out_pairs(config, folder, tokenizer, find_judge(config))
    texts = [[*sample.prompt.token_ids, *sample.response_ids] for sample in by_truth.samples]
    config = RunConfig.model_validate({"data": {"preferences": ratings, "hold_out": HOLD_OUT}})
    rows = reward_model.pairs(sources(config, None).preference_split()[1], tokenizer, 96, margin=False)
    rated = [ids for row in rows for ids in (row["chosen_ids"], row["rejected_ids"])]
    truth, raters = (plain_scores(model_folder, tokenizer, one) for one in (texts, rated))
    right = [better > worse for better, worse in zip(raters[::2], raters[1::2], strict=True)]
    return [(by_truth.share_right(truth), len(texts) // 2), (sum(right) / len(right), len(right))]


def plain_scores(model_folder, tokenizer, texts: list[list[int]]) -> list[float]:
    """By plain transformers."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32).eval()
    scores = []
    for start in range(0, len(texts), 64):
        ids = [[int(token) for token in text] for text in texts[start : start + 64]]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="right")
        with torch.no_grad():
            scores += model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].tolist()
    return scores
