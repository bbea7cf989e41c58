"""What PPO is evaluated on while it trains, and what that leaves in the run's folder."""

import asyncio
import json
import time

import numpy as np
import pytest

from scale_rlhf.config.checks import check
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, DataError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.evaluations import Evaluation, standard_error
from scale_rlhf.orchestration.held_out_log import HeldOutLog, wanted
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages.ppo import training_prompts
from scale_rlhf.stages.ppo_evaluation import held_out, in_thread
from scale_rlhf.telemetry import catalogue
from scale_rlhf.telemetry.metrics import read_jsonl, read_metrics
from scale_rlhf.telemetry.sinks import RayMetrics
from tests.tiny import tiny_tokenizer

END = 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from scale_rlhf.config.schema import ModelSection
    from scale_rlhf.data.chat import load_tokenizer

    return load_tokenizer(str(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))), ModelSection())


def evaluation(tokenizer, version: int, verdicts=None) -> Evaluation:
    """Two answers: "Paris", which ends, and "France"."""
    answers = []
    for place, (text, ended) in enumerate((("Paris", True), ("France", False))):
        ids = np.asarray([*tokenizer(text, add_special_tokens=False)["input_ids"], *[END] * ended], np.int32)
        row = {"messages": [{"role": "user", "content": f"What {place}?"}]}
        prompt = Prompt(-1000 - place, -1, np.ones(3, np.int32), row)
        answers.append(Sample(prompt, ids, np.zeros(len(ids), np.float32), np.full(len(ids), version, np.int32), ended))
    return Evaluation(version, answers, [1.0, 2.0], verdicts, 0.5)


VERDICTS = [{"score": 3.0, "helpful": 1.0, "honest": None}, {"score": 5.0, "helpful": None, "honest": None}]


def test_its_numbers_are_means_with_their_errors_and_all_are_in_the_catalogue(tokenizer):
    numbers = evaluation(tokenizer, 4, VERDICTS).metrics()
    assert numbers["evaluate/reward"] == 1.5 and numbers["evaluate/reward_error"] == pytest.approx(0.5)
    assert numbers["evaluate/score"] == 4.0 and numbers["evaluate/score_error"] == pytest.approx(1.0)
    assert numbers["evaluate/helpful"] == 1.0 and "evaluate/honest" not in numbers
    assert (numbers["evaluate/version"], numbers["evaluate/ended"], numbers["evaluate/answers"]) == (4.0, 0.5, 2.0)
    assert all(catalogue.find(key, "held_out") for key in numbers)
    assert catalogue.find("evaluate/score", "held_out")[1] == {} and catalogue.find("evaluate/score", "ppo") is None
    assert "evaluate/score" not in evaluation(tokenizer, 4).metrics() and standard_error([1.0]) == 0.0


def test_the_log_has_a_line_a_version_and_goes_back_with_the_run(tokenizer, tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not wanted(folder, None) and wanted(folder, 2)
    log = HeldOutLog(folder, tokenizer, after=0)
    said = [log.add(evaluation(tokenizer, version, VERDICTS)) for version in (0, 2, 4)]
    log.close()
    assert said[1] == "held out at version 2: reward +1.500, judge 4.000"
    with open(folder.path / "ppo" / "held_out.jsonl", "a") as file:  # killed before the numbers were written
        file.write(json.dumps({"version": 6}) + "\n")
    again = HeldOutLog(folder, tokenizer, after=3)
    assert again.versions == {0, 2} and wanted(folder, None)
    again.add(evaluation(tokenizer, 4))
    again.close()
    assert [line["step"] for line in read_metrics(folder.metrics("held_out"))] == [0, 2, 4]
    answers = read_jsonl(folder.path / "ppo" / "held_out.jsonl")
    assert [line["version"] for line in answers] == [0, 0, 2, 2, 4, 4]
    assert answers[0] == {"version": 0, "prompt": "What 0?", "response": "Paris", "reward": 1.0, "ended": True, "score": 3.0,
                          "helpful": 1.0}
    assert list(folder.tensorboard("held_out").glob("events*"))


def test_its_lines_are_beside_the_stage_that_runs():
    sink = RayMetrics()
    sink.begin("ppo", 10)
    before = sink.last
    sink.begin("held_out", None)
    sink.log("held_out", 4, {"evaluate/score": 1.0})
    assert sink.stage == "ppo" and sink.last == before


def configuration(tmp_path, **evaluation_) -> RunConfig:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(40)))
    return RunConfig.model_validate({"data": {"prompts": str(tmp_path / "prompts.jsonl"), "hold_out": 0.3},
                                     "evaluation": evaluation_})


def test_prompts_are_those_that_nobody_trains_on(tokenizer, tmp_path):
    config = configuration(tmp_path, every=2, during_prompts=5)
    found = held_out(config, RunFolder(tmp_path / "run"), tokenizer)
    trained = {row["messages"][0]["content"] for row in training_prompts(config, RunFolder(tmp_path / "run"), tokenizer)[1]}
    asked = [prompt.row["messages"][0]["content"] for prompt in found.prompts]
    assert len(asked) == 5 and not trained & set(asked) and len(trained) > 20
    assert [prompt.index for prompt in found.prompts] == [-1000, -1001, -1002, -1003, -1004] and found.judge is None
    assert held_out(configuration(tmp_path), RunFolder(tmp_path / "run"), tokenizer).prompts == ()


def test_no_held_out_prompts_or_a_judge_that_is_not_there_is_said_at_the_start(tokenizer, tmp_path):
    config = configuration(tmp_path, every=2)
    config.data.hold_out = 0.0
    with pytest.raises(ConfigError, match="data.hold_out: 0 leaves nothing to evaluate on"):
        check(config, ["ppo"], starts=False)
    with pytest.raises(DataError, match="data.evaluation: evaluation.every asks held-out prompts, and there are none"):
        held_out(config, RunFolder(tmp_path / "run"), tokenizer)
    with pytest.raises(ConfigError, match="evaluation.judge: no_such_module:judge: the module cannot be imported"):
        held_out(configuration(tmp_path, every=2, judge="no_such_module:judge"), RunFolder(tmp_path / "run"), tokenizer)
    with pytest.raises(ConfigError, match="evaluation.during_prompts: nothing is evaluated during training"):
        check(configuration(tmp_path, during_prompts=5), ["ppo"], starts=False)


def test_the_practice_worlds_truth_is_asked_where_it_is_named_alone(tokenizer, tmp_path):
    config = configuration(tmp_path, every=2)
    config.data.practice = {}
    config.data.evaluation = config.data.prompts
    assert held_out(config, RunFolder(tmp_path / "run"), tokenizer).judge is None
    config.evaluation.judge = "scale_rlhf.data.practice.truth:judge"
    judge = held_out(config, RunFolder(tmp_path / "run"), tokenizer).judge
    answers = evaluation(tokenizer, 0).answers
    answers[0].prompt.row["messages"][0]["content"] = answers[1].prompt.row["messages"][0]["content"] = (
        "What is the capital of France?")
    first, second = asyncio.run(judge(answers))
    assert first.keys() >= {"score", "helpful", "honest", "harmless", "right_form"} and second["score"] == 0.0


def test_a_judge_that_hangs_keeps_nothing_from_ending():
    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(lambda: time.sleep(20)), 0.05)
        with pytest.raises(KeyError):
            await in_thread(lambda: {}["nothing"])
        assert await in_thread(lambda: 3) == 3

    began = time.monotonic()
    asyncio.run(impatient())
    assert time.monotonic() - began < 5
