"""What counts as scores, and which reward a configuration names."""

import numpy as np
import pytest
import torch

from scale_rlhf.config.reward_sources import processes
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.interface import ScoringFailed, finite_scores
from scale_rlhf.reward.make import make_reward
from scale_rlhf.reward.text import Reader, read_tokenizer
from tests.tiny import END, samples, tiny_tokenizer


@pytest.mark.parametrize("returned", [[1, 2.5], (1.0, 2.5), np.array([1, 2.5]), torch.tensor([1, 2.5]), [True, np.float32(2.5)]])
def test_numbers_of_any_make_are_scores(returned):
    scores = finite_scores(returned, 2, "f")
    assert scores == [1.0, 2.5] and all(type(score) is float for score in scores)


@pytest.mark.parametrize(("returned", "said"), [
    (None, "None (NoneType)"), ("12", "'12' (str)"), ({0: 1.0, 1: 2.0}, "(dict)"), (3.0, "3.0 (float)"),
    ([1.0], "it returned 1: [1.0]"), ([1.0, 2.0, 3.0], "it returned 3"), ([1.0, float("nan")], "number 1 is nan"),
    ([float("inf"), 1.0], "number 0 is inf"), ([1.0, "2"], "number 1 is '2' (str)"), ([1.0, None], "number 1 is None"),
    (np.ones((2, 2)), "number 0 is [1.0, 1.0]"),
])
def test_anything_else_is_said(returned, said):
    with pytest.raises(ScoringFailed) as error:
        finite_scores(returned, 2, "reward.function mine:f")
    assert said in str(error.value) and "reward.function mine:f: expected a list of 2 finite numbers" in str(error.value)


def test_a_long_answer_is_quoted_in_part():
    with pytest.raises(ScoringFailed) as error:
        finite_scores(list(range(10_000)), 2, "f")
    assert len(str(error.value)) < 500


def test_one_reward_is_named(tmp_path):
    folder = str(tiny_tokenizer(tmp_path / "policy"))
    with pytest.raises(ConfigError, match="found model and url"):
        make_reward(RunConfig(reward={"model": "x", "url": "http://h/"}), model=None, policy=folder)
    with pytest.raises(ConfigError, match="found none"):
        make_reward(RunConfig(), model=None, policy=folder)
    kinds = {
        "LearnedReward": ({}, "made"), "FunctionReward": ({"function": "a:b"}, "made"),
        "ServiceReward": ({"url": "http://h/"}, None),
    }
    for kind, (section, made) in kinds.items():
        assert type(make_reward(RunConfig(reward=section), model=made, policy=folder)).__name__ == kind
    with pytest.raises(ConfigError, match="reward.url"):
        make_reward(RunConfig(reward={"url": "h/score"}), model=None, policy=folder)
    with pytest.raises(ConfigError, match="tokenizer"):
        make_reward(RunConfig(reward={"function": "a:b"}), model=None, policy=str(tmp_path))


def test_processes_for_placement():
    assert processes(RunConfig(reward={"replicas": 2, "workers": 3}).reward) == (2, 3)
    assert processes(RunConfig(reward={"replicas": 2, "workers": 3, "function": "a:b"}).reward) == (2, 1)
    assert processes(RunConfig(reward={"url": "http://h/"}).reward) == (0, 0)


def test_what_a_function_reads(tmp_path):
    tokenizer = read_tokenizer(str(tiny_tokenizer(tmp_path)))
    reader = Reader(tokenizer)
    (sample,) = samples(1)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Who?"}], add_generation_prompt=True, return_dict=False)
    answer = np.array([*tokenizer.encode("Me."), END], np.int32)
    prompt = type(sample.prompt)(0, 0, np.array(asked, np.int32), {"messages": [{"role": "user", "content": "Who?"}], "id": 7})
    (document,) = reader.documents([type(sample)(prompt, answer, sample.logprobs, sample.versions, True)])
    assert document == {
        "prompt": "Who?", "response": "Me.", "prompt_ids": asked, "response_ids": answer.tolist(), "ended": True,
        "row": prompt.row,
    }
    dialogue = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
    ids = np.array(tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_dict=False), np.int32)
    shown = reader.prompt(type(prompt)(0, 0, ids, {"messages": dialogue}))
    assert shown == "<|user|>A<|assistant|>B<|end|><|user|>C<|assistant|>"
    assert reader.prompt(type(prompt)(0, 0, ids, {"prompt": "C"})) == "C"
    assert reader.messages(type(prompt)(0, 0, np.array(asked, np.int32), {})) == [{"role": "user", "content": "Who?"}]
