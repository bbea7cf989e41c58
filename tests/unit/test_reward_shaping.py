"""Shaping: the formulas, several sources that become one reward, and what it is normalised with."""
# ruff: noqa: E501 - a case and its message stay on one line

import asyncio
import json

import pytest
import torch

from scale_rlhf.algorithms.shaping import clipped, mixed, normalised, overlong_penalty, reference_moments
from scale_rlhf.config.changes import changes
from scale_rlhf.config.checks import check
from scale_rlhf.config.resources import asks
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.launching.packing import code_folder
from scale_rlhf.orchestration.health import Health
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.reward.function_worker import FunctionWorker
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.reward.reference_answers import kept_moments, reference_samples, settle_moments
from scale_rlhf.reward.shaped import ShapedReward
from scale_rlhf.telemetry.catalogue import find
from tests.tiny import samples, tiny_policy

MIX = {"right": {"function": "json:loads", "weight": 2.0, "clip": [0, 1]}, "liked": {"url": "http://h/", "weight": 0.5, "normalise": 4}}


def test_the_published_length_penalty():
    """DAPO: L_max 20480, L_cache 4096; 0 up to 16384, −1 at 20480, half of it in the middle."""
    lengths = torch.tensor([1, 16384, 18432, 20480, 30000])
    assert overlong_penalty(lengths, limit=20480, buffer=4096).tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_normalised_reference_answers_have_mean_0_and_deviation_1():
    scores = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    mean, deviation = reference_moments(scores)
    plain = sum(scores.tolist()) / 4
    assert mean == plain and deviation == pytest.approx((sum((x - plain) ** 2 for x in scores.tolist()) / 3) ** 0.5)
    again = reference_moments(normalised(scores, mean, deviation))
    assert again == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    for same in ([1.0, 1.0, 1.0], [1.0], [1e9, 1e9 + 1e-3]):
        with pytest.raises(ValueError, match="expected scores that differ"):
            reference_moments(torch.tensor(same, dtype=torch.float64))


def test_clipped_and_mixed():
    held, changed = clipped(torch.tensor([-2.0, 0.5, 3.0]), -1.0, 1.0)
    assert held.tolist() == [-1.0, 0.5, 1.0] and changed.tolist() == [True, False, True]
    assert mixed([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])], [1.0, -0.1]).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError):
        mixed([torch.tensor([1.0])], [1.0, 2.0])


class Fixed:
    """A reward of known scores."""

    def __init__(self, scores, health=None):
        self.scores, self.health, self.closed, self.options = scores, health, False, None

    async def start(self, options=None, probe=()):
        self.options = options

    async def score(self, samples, *, fixed, group):
        if isinstance(self.scores, Exception):
            raise self.scores
        return [self.scores[i % len(self.scores)] for i in range(len(samples))]

    async def metrics(self):
        return {"samples": 9, "failed_tries": 1, "failed_calls": 0, "busy_seconds": 1.0}

    async def spans(self):
        return {"reward/0": []}

    def close(self):
        self.closed = True


def shaped(sections: dict, *fleets, moments=None, **more) -> ShapedReward:
    config = RunConfig(reward={"mix": sections, **more}, rollout={"max_response_tokens": 16})
    reward = ShapedReward(config, dict(zip(sections, zip(config.reward.mix.values(), fleets, strict=True), strict=True)))
    reward.moments = moments or {}
    return reward


def test_sources_are_normalised_clipped_weighted_and_added():
    reward = shaped(MIX, Fixed([0.25, 3.0]), Fixed([5.0, 9.0]), moments={"liked": (5.0, 2.0)}, overlong={"buffer_tokens": 8, "penalty": 0.5})
    two = samples(1, response=(8, 8)) + samples(1, response=(12, 12))
    scores = asyncio.run(reward.score(two, fixed=True, group=0))
    assert scores == [2 * 0.25 + 0.5 * 0.0, 2 * 1.0 + 0.5 * 2.0 - 0.5 * 0.5]
    metrics = asyncio.run(reward.metrics())
    assert {key: metrics[key] for key in metrics if "/" in key or "share" in key} == {
        "right/raw_mean": 1.625, "right/clipped_share": 0.5, "liked/raw_mean": 7.0, "overlong_share": 0.5}
    assert metrics["samples"] == 2 and metrics["failed_tries"] == 2
    assert all(find(f"reward_server/{key}") for key in metrics)  # all is documented
    assert "right/raw_mean" not in asyncio.run(reward.metrics())  # of nothing there is no mean


def test_a_source_that_cannot_score_leaves_its_group_without_one():
    reward = shaped(MIX, Fixed([1.0]), Fixed(ScoringFailed("the service is silent")))
    with pytest.raises(ScoringFailed, match="silent"):
        asyncio.run(reward.score(samples(2), fixed=True, group=0))


def test_each_source_has_its_own_processes():
    sections = {"one": {"function": "a:b", "replicas": 2, "cpus": 0.5}, "two": {"url": "http://h/"}, "three": {"workers": 2}}
    fleets = [Fixed([1.0], Health(["reward/0", "reward/1"], lambda: 7.0, stale=False)), Fixed([1.0]), Fixed([1.0], Health(["reward/0"], lambda: 8.0, stale=False))]
    reward = shaped(sections, *fleets)
    asyncio.run(reward.start([["a"], ["b"], ["c", "d"]]))
    assert [fleet.options for fleet in fleets] == [[["a"], ["b"]], [], [["c", "d"]]]
    assert reward.health.names == ["reward/one-0", "reward/one-1", "reward/three-0"] and reward.health.since == [7.0, 7.0, 8.0]
    assert set(asyncio.run(reward.spans())) == {"reward/one-0", "reward/two-0", "reward/three-0"}
    reward.close()
    assert all(fleet.closed for fleet in fleets)
    asked = {ask.role: (ask.processes, ask.cpus) for ask in asks(RunConfig(reward={"mix": sections}), "ppo")}
    assert (asked["reward.mix.one"], asked["reward.mix.two"], asked["reward.mix.three"]) == ((2, 0.5), (0, 1.0), (2, 1.0)) and "reward" not in asked


@pytest.fixture
def run_folder(tmp_path):
    rows = [{"question": f"What is {n} and 1?", "answer": f"It is {n + 1}.\n#### {n + 1}", "hard": n} for n in range(40)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    config = RunConfig(
        run={"folder": str(tmp_path / "runs")}, reward={"mix": MIX}, rollout={"max_response_tokens": 16}, value={"initial": "policy"},
        data={"instructions": {"path": str(data), "columns": {"prompt": "question", "response": "answer"}}},
        model={"path": str(tiny_policy(tmp_path / "policy"))})
    return config, RunFolder.create(config, ["ppo"])


def test_reference_answers_are_measured_once(run_folder):
    config, folder = run_folder
    policy = config.model.path
    told = []
    reward = shaped(MIX, Fixed([1.0]), Fixed([1.0, 2.0]))
    asyncio.run(settle_moments(config, folder, reward, policy, told.append))
    assert reward.moments == {"liked": (1.5, pytest.approx(3**-0.5))} and "liked on 4 reference answers: mean 1.5" in told[0]
    other = shaped(MIX, Fixed([1.0]), Fixed([70.0, 90.0]))  # a resume takes what is there
    asyncio.run(settle_moments(config, folder, other, policy, told.append))
    assert other.moments == reward.moments == kept_moments(config, folder) and len(told) == 1
    with pytest.raises(ConfigError, match="the reward liked says nothing of the 4 reference answers"):
        (folder.stage("ppo") / "reward_moments.json").unlink()
        asyncio.run(settle_moments(config, folder, shaped(MIX, Fixed([1.0]), Fixed([1.0])), policy))


def test_reference_answers_are_samples_with_their_rows(run_folder):
    config, folder = run_folder
    from scale_rlhf.reward.text import Reader, read_tokenizer

    made = reference_samples(config, folder, config.model.path, 4)
    documents = Reader(read_tokenizer(config.model.path)).documents(made)
    row = documents[0]["row"]
    assert documents[0]["prompt"] == f"What is {row['hard']} and 1?" and documents[0]["response"] == f"It is {row['hard'] + 1}.\n#### {row['hard'] + 1}"
    assert row["response"] == documents[0]["response"] and made[0].response_ids[-1] == 1 and made[0].ended
    with pytest.raises(ConfigError, match="expected 41 reference answers"):
        reference_samples(config, folder, config.model.path, 41)


def told(**sections) -> str:
    with pytest.raises(ConfigError) as caught:
        check(RunConfig(**{"data": {"practice": {}}, "cluster": {"cpus": 9}, "value": {"initial": "policy"}, **sections}))
    return str(caught.value)


@pytest.mark.parametrize(("reward", "expected"), [
    ({"mix": {"a": {"function": "json:loads", "url": "http://h/"}}}, "reward.mix.a: expected exactly one of model, function and url"),
    ({"mix": {"a": {"url": "h/"}}}, "reward.mix.a.url: expected an address that begins with http"),
    ({"mix": {"a": {"function": "no_such_thing:f"}}}, "reward.mix.a.function: there is no Python module no_such_thing"),
    ({"mix": {"a": {"model": "no/such/folder"}}}, "reward.mix.a.model: "),
    ({"mix": {"a": {"url": "http://h/", "arguments": {"x": 1}}}}, "reward.mix.a.arguments: reward.mix.a.url is a service"),
    ({"mix": {"a": {"url": "http://h/"}}, "clip": [0, 1]}, "reward.clip: with reward.mix it is a key of each source in it"),
    ({"mix": {"a": {"url": "http://h/"}}, "function": "json:loads"}, "reward.function: with reward.mix it is a key of each source"),
    ({"arguments": {"x": 1}}, "reward.arguments: it is for a reward.function"),
    ({"clip": [1, 0]}, "reward.clip: expected two numbers, the smaller first; found [1.0, 0.0]"),
    ({"overlong": {"buffer_tokens": 65}}, "reward.overlong.buffer_tokens: at most rollout.max_response_tokens (64); found 65"),
])
def test_what_does_not_go_together_is_told(reward, expected):
    assert expected in told(reward=reward)


def test_a_name_of_a_source_is_plain():
    with pytest.raises(ValueError, match="pattern"):
        RunConfig(reward={"mix": {"a/b": {}}})


def test_a_mixture_is_no_start_for_a_value_model():
    assert "value.initial: the value model cannot start from the reward model where several sources are mixed" in told(
        reward={"mix": {"a": {"function": "json:loads"}}}, value={})


def test_what_may_differ_where_a_run_goes_on():
    before = RunConfig(reward={"mix": {"a": {"url": "http://h/", "weight": 1.0}}})
    after = RunConfig(reward={"mix": {"a": {"url": "http://i/", "weight": 2.0, "cpus": 0.5, "timeout_seconds": 9}}})
    assert {change.key: change.harmful for change in changes(before, after)} == {
        "reward.mix.a.url": False, "reward.mix.a.weight": True, "reward.mix.a.cpus": False, "reward.mix.a.timeout_seconds": False}


def test_functions_of_our_own_are_not_sent_to_a_cluster(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def f(samples): return [0.0] * len(samples)")
    monkeypatch.chdir(tmp_path)
    ours = {"function": "scale_rlhf.reward.verifiable.form:matches", "arguments": {"pattern": "a"}}
    assert code_folder(RunConfig(reward=ours)) is None
    assert code_folder(RunConfig(reward={"mix": {"ours": ours, "mine": {"function": "mine:f"}}})) == tmp_path.resolve()


def test_arguments_reach_the_function_or_are_refused():
    path = "scale_rlhf.reward.verifiable.form:matches"
    worker = FunctionWorker(path, {"pattern": "a+", "whole": False})
    worker.load()
    assert worker.score([{"response": "xay"}, {"response": "b"}]) == [1.0, 0.0]
    with pytest.raises(ConfigError, match=r"form:matches takes pattern, whole, and was given patern .*did you mean pattern\?"):
        FunctionWorker(path, {"patern": "a"}).load()
    broken = FunctionWorker(path, {"pattern": "("})
    broken.load()
    with pytest.raises(ConfigError, match="not a regular expression"):  # at the first call, and no other try is made
        broken.score([{"response": "a"}])


def test_what_is_to_be_normalised_is_never_left_as_it_is():
    reward = shaped(MIX, Fixed([0.25, 3.0]), Fixed([5.0, 9.0]))
    with pytest.raises(RunError, match="reward liked: it is normalised, and nothing was measured"):
        asyncio.run(reward.score(samples(2), fixed=True, group=0))
