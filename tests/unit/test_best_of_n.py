"""Rejection sampling without its engines: which answer is kept, and what a stopped run goes on with."""

import asyncio
import json

import numpy as np
import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Sample
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.stages.best_of_n import Answers, Choosing, best


def sample(prompt, ids, ended=True):
    ids = np.asarray(ids, np.int32)
    return Sample(prompt, ids, np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32), ended)


PROMPTS = PromptStream([[1], [2], [3]], [{}, {}, {}], responses=4, seed=0)


def test_the_best_that_ended_is_kept():
    samples = [sample(PROMPTS[k], [k], ended=k != 2) for k in range(4)]
    assert best(7, samples, [0.5, 2.0, 9.0, 1.0]) == {
        "place": 7, "scores": [0.5, 2.0, 9.0, 1.0], "ended": 3, "score": 2.0, "best": [1]}
    cut = [sample(PROMPTS[k], [k], ended=False) for k in range(4)]
    assert best(0, cut, [1.0] * 4)["best"] is None


def test_answers_outlive_a_stop_in_the_middle_of_a_line(tmp_path):
    answers = Answers(tmp_path / "answers.jsonl")
    answers.add([{"place": 4, "best": [1]}, {"place": 2, "best": None}])
    with open(answers.path, "a") as file:
        file.write('{"place": 9, "be')
    again = Answers(answers.path)
    assert sorted(again.found) == [2, 4]
    again.add([{"place": 9, "best": [3]}])
    assert [json.loads(line)["place"] for line in answers.path.read_text().splitlines()] == [4, 2, 9]


class Engines:
    async def generate(self, prompt):
        return sample(prompt, [prompt.index])


class Reward:
    """Scores a sample by its index. fails: groups without a score."""

    def __init__(self, fails=()):
        self.fails = fails

    async def score(self, samples, *, fixed, group):
        if group in self.fails:
            raise ScoringFailed("no answer")
        return [float(one.index % 4 == 1) for one in samples]


def choose(reward, places, **limits):
    kept, told = [], []
    config = RunConfig.model_validate({"limits": limits, "best_of_n": {"responses_per_prompt": 40}})
    prompts = PromptStream([[1], [2], [3]], [{}, {}, {}], responses=40, seed=0)
    asyncio.run(Choosing(config, Engines(), reward, prompts, kept.extend, told.append).run(places))
    return kept, told


def test_each_prompt_is_asked_as_often_as_it_shall_be():
    kept, _ = choose(Reward(), [2, 0])
    assert sorted(line["place"] for line in kept) == [0, 2]
    assert all(len(line["scores"]) == 40 and line["best"] == [40 * line["place"] + 1] for line in kept)


def test_prompts_that_cannot_be_scored_are_left_out_and_too_many_end_the_run():
    kept, told = choose(Reward(fails=(1,)), [0, 1, 2])
    assert sorted(line["place"] for line in kept) == [0, 2] and told == ["no answer. Its prompts are left out"]
    with pytest.raises(ExceptionGroup) as failure:
        choose(Reward(fails=(0, 1, 2)), [0, 1, 2], failed_scores=2)
    assert failure.group_contains(RunError, match="3 groups of samples in a row could not be scored")
