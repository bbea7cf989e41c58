"""The loop with roles that are simulated, for what no real role does on request: late, stuck and failing ones, in order."""

import asyncio
import gc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.bad_numbers import BadNumbers
from scale_rlhf.orchestration.deadlines import RoleFailed, within
from scale_rlhf.orchestration.evaluations import Evaluation, Evaluations
from scale_rlhf.orchestration.loop import Loop
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.telemetry.spans import Span

ONE = np.zeros(1, np.float32)
BATCH = 4


@pytest.fixture(autouse=True)
def without_collections(monkeypatch):
    """A collection looks at all that pytest and torch hold, 40 ms each time, and no test here is about it."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class HeldOut:
    """How held-out prompts are answered: in `seconds`, or `failures` times not at all."""

    def __init__(self, seconds: float = 0.01, failures: int = 0):
        self.seconds, self.failures = seconds, failures
        self.beside = 0  # answers that were asked for while samples decoded

    async def answer(self, world: "World", prompt: Prompt) -> Sample:
        version = world.version
        self.beside += world.decoding > 0
        await asyncio.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise RoleFailed("rollout engine 0: its process died (pid 7)")
        world.events.append(f"answered {version}")
        return Sample(prompt, np.zeros(2, np.int32), ONE, np.asarray([version, world.version], np.int32), True)


class World:
    """All five roles. Seconds that each call takes can be set, and what happened is told in `events`."""

    def __init__(self, **seconds: float):
        self.seconds = {"generate": 0.001, "score": 0.0, "update": 0.005, "publish": 0.0, "load": 0.0} | seconds
        self.events: list[str] = []
        self.version = 0
        self.decoding = self.most_decoding = self.scoring = 0
        self.stuck: str | None = None
        self.unscored: set[int] = set()  # samples that the reward cannot score
        self.bad: set[int] = set()  # whose log-probability is NaN
        self.filtered: list[int] = []
        self.reasons: list[str] = []
        self.scores: dict[int, float] = {}  # by sample
        self.greedy: list[int] = []  # groups that were answered greedily
        self.states: list[LoopState] = []
        self.evaluations: list[Evaluation] = []
        self.told: list[str] = []
        self.held_out = HeldOut()

    def roles(self) -> SimpleNamespace:
        return SimpleNamespace(rollout=self, reward=self, reference=self, policy=self, value=self, all=lambda: [self])

    async def takes(self, what: str) -> None:
        if self.stuck == what:
            await within(asyncio.sleep(60), 0.05, what, "a test")
        await asyncio.sleep(self.seconds[what])

    async def generate(self, prompt: Prompt, temperature: float | None = None) -> Sample:
        if temperature == 0:
            self.greedy.append(prompt.group)
            await self.takes("generate")
            return Sample(prompt, np.zeros(1, np.int32), ONE + 2.0, np.zeros(1, np.int32), ended=False)
        if prompt.index <= -1000:
            return await self.held_out.answer(self, prompt)
        version, self.decoding = self.version, self.decoding + 1
        self.most_decoding = max(self.most_decoding, self.decoding)
        await self.takes("generate")
        self.decoding -= 1
        logprobs = ONE * np.nan if prompt.index in self.bad else ONE
        return Sample(prompt, np.zeros(1, np.int32), logprobs, np.full(1, version, np.int32), True)

    async def score(self, samples, **how) -> list[float]:
        await self.takes("score")
        if self.unscored & {sample.index for sample in samples}:
            raise ScoringFailed("the reward is out")
        return [self.scores.get(sample.index, 0.0) if sample.ended else 9.0 for sample in samples]  # 9: of a greedy one

    async def logprobs(self, samples, **how) -> list[np.ndarray]:
        return [ONE] * len(samples)

    async def prepare(self, batch):
        self.events.append("prepare")
        return [ONE] * len(batch.samples), {}

    async def update(self, *arguments) -> dict:
        self.events.append("update policy" if len(arguments) == 3 else "update value")
        await self.takes("update")
        return {"tokens": 1.0}

    async def publish(self, version: int) -> dict:
        self.events.append(f"publish {version}")
        await self.takes("publish")
        return {"version": version}

    async def load(self, version: int, info: dict) -> dict:
        self.events.append(f"load {version}")
        await self.takes("load")
        self.version = version
        self.events.append(f"loaded {version}")
        return {"stopped_seconds": 0.0}

    async def metrics(self) -> dict:
        return {"busy_seconds": 0.0}

    async def spans(self) -> dict[str, list[Span]]:
        return {"rollout/engine-0": []}


def run(world: World, staleness: int, steps: int = 6, limits: dict | None = None, start: LoopState | None = None, skip=(),
        evaluation: dict | None = None, judge=None, known=(), **ppo) -> tuple[Loop, list]:
    config = RunConfig.model_validate({
        "ppo": {"steps": steps, "prompts_per_step": BATCH} | ppo, "overlap": {"max_staleness": staleness, "score_group": 2},
        "limits": limits or {}, "evaluation": evaluation or {}})
    done = []

    async def on_step(step) -> None:
        done.append(step)
        world.states.append(world.loop.state())

    async def go() -> Loop:
        prompts = PromptStream([[1]], [{}], responses=config.ppo.responses_per_prompt, seed=0)
        roles = world.roles()
        if not config.ppo.critic:
            roles.value = None

        def filtered(sample, why) -> None:
            world.filtered.append(sample.index), world.reasons.append(why)

        asked = [Prompt(-1000 - place, -1, np.ones(1, np.int32)) for place in range(3)]
        evaluations = Evaluations(config, roles, asked, judge, world.evaluations.append, world.told.append, known)
        loop = Loop(config, roles, prompts, on_step, start, skip, filtered, evaluations)
        world.loop = loop
        await loop.run()
        return loop

    return asyncio.run(go()), done


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_every_sample_is_trained_once_and_none_too_old(staleness):
    loop, steps = run(World(load=0.01), staleness)
    assert sorted(one.sample.index for step in steps for one in step.batch) == list(range(6 * BATCH))
    ages = [step.version - 1 - int(one.sample.versions.min()) for step in steps for one in step.batch]
    assert max(ages) <= staleness and (max(ages) > 0) == (staleness > 0)
    assert loop.admission.in_flight == 0 and [step.version for step in steps] == [1, 2, 3, 4, 5, 6]
    shares = [step.metrics[f"staleness/share_{age}"] for step in steps for age in range(int(step.metrics["staleness/max"]) + 1)]
    assert sum(shares) == pytest.approx(len(steps))


def test_synchronous_waits_for_the_engines_and_one_step_ahead_does_not():
    for staleness in (0, 1):
        world = World(load=0.03, update=0.0, generate=0.0)
        run(world, staleness, steps=4)
        early = world.events.index("publish 2") < world.events.index("loaded 1")
        assert early == (staleness > 0), world.events


def test_a_version_is_not_written_where_engines_still_read_the_last_but_one():
    world = World(load=0.05, update=0.0, generate=0.0)
    run(world, staleness=4, steps=6)
    for version in range(3, 7):
        assert world.events.index(f"publish {version}") > world.events.index(f"loaded {version - 2}"), world.events
    loads = [event for event in world.events if event.startswith("load")]
    assert loads == [f"{what} {v}" for v in range(1, 7) for what in ("load", "loaded")], "one version after the other"


@pytest.mark.parametrize("slow", ["score", "update", "load"])
def test_queues_are_bounded_whoever_is_slow(slow):
    world = World(**{slow: 0.05})
    loop, steps = run(world, staleness=2)
    assert world.most_decoding <= 3 * BATCH
    assert all(step.metrics["queue/buffer"] <= 3 * BATCH and step.metrics["queue/in_flight"] <= 4 * BATCH for step in steps)
    assert len(steps) == 6


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("stuck", ["generate", "score", "update", "publish", "load"])
def test_who_is_late_ends_the_run_and_is_named(stuck, staleness):
    world = World()
    world.stuck = stuck
    with pytest.raises(RunError, match=f"{stuck}: a test did not end within 0.05 s"):
        run(world, staleness)


def test_responses_to_one_prompt_leave_together_and_are_never_split():
    world = World()
    _, steps = run(world, staleness=3, prompts_per_step=2, responses_per_prompt=2)
    for step in steps:
        groups = [one.sample.prompt.group for one in step.batch]
        assert len(groups) == 4 and all(groups.count(group) == 2 for group in groups)


def trained(steps) -> list[int]:
    return sorted(one.sample.index for step in steps for one in step.batch)


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_loop_goes_on_from_any_of_its_states(staleness, tmp_path):
    """Written and read: what was trained before and after is all there is, once, and none is too old."""
    world = World(load=0.01, score=0.002)
    _, before = run(world, staleness)
    for state in world.states:
        state.write(tmp_path)
        state = LoopState.read(tmp_path, PromptStream([[1]], [{}], responses=1, seed=0))
        again = World(load=0.01)
        loop, after = run(again, staleness, start=state)
        done = [one.sample.index for step in before[: state.version] for one in step.batch]
        assert sorted(done + trained(after)) == list(range(6 * BATCH))
        assert [step.version for step in after] == list(range(state.version + 1, 7))
        assert again.events[0] == f"publish {state.version}" and again.events.index(f"loaded {state.version}") == 2
        ages = [step.version - 1 - int(one.sample.versions.min()) for step in after for one in step.batch]
        assert max(ages, default=0) <= staleness and loop.admission.in_flight == 0


@pytest.mark.parametrize("staleness", [0, 2])
def test_samples_without_a_score_are_filtered_and_others_come_in_their_place(staleness):
    world = World()
    world.unscored = {1, 9, 10, 23}
    loop, steps = run(world, staleness)
    assert len(trained(steps)) == 6 * BATCH and not world.unscored & set(trained(steps))
    assert sorted(trained(steps) + world.filtered) == list(range(loop.admission.admitted))
    assert loop.admission.filtered == len(world.filtered) >= 4 and steps[-1].metrics["queue/filtered"] == len(world.filtered)


def test_a_reward_that_never_works_stops_the_run():
    world = World()
    world.unscored = set(range(10_000))
    with pytest.raises(RunError, match=r"4 groups of samples in a row could not be scored \(limits.failed_scores\)."):
        run(world, staleness=1, limits={"failed_scores": 3})


def test_a_prompts_responses_are_filtered_together():
    world = World()
    world.unscored = {4}
    _, steps = run(world, 0, responses_per_prompt=3, prompts_per_step=2)
    assert world.filtered == [3, 4, 5]
    assert all(len(step.batch) == 6 for step in steps)


def test_numbers_that_are_none_stop_the_run_or_are_left_out():
    world = World()
    world.bad = {5}
    with pytest.raises(BadNumbers, match="rollout: log-probability of sample 5 is nan at its token 0") as failure:
        run(world, 0)
    assert failure.value.indices == [5]
    loop, steps = run(world, 0, limits={"on_bad_numbers": "skip"})
    assert len(trained(steps)) == 6 * BATCH and 5 in world.filtered


def test_what_spoilt_the_weights_is_not_trained_again():
    world = World()
    loop, steps = run(world, 0, skip={0, 1, 6})
    assert sorted(trained(steps) + world.filtered) == list(range(loop.admission.admitted)) and world.filtered == [0, 1, 6]


def test_kl_has_a_bound():
    world = World()
    generate = world.generate

    async def far(prompt: Prompt) -> Sample:
        return replace(await generate(prompt), logprobs=ONE + 2.0)  # the reference gives 0

    world.generate = far
    assert run(world, 0, limits={"kl": 2.5})
    with pytest.raises(RunError, match="at step 1 the policy's answers are 2 nats from the reference"):
        run(world, 0, limits={"kl": 1.5})


def test_a_run_in_which_nothing_goes_on_says_so():
    world = World(update=60)
    with pytest.raises(RunError, match=r"nothing has gone on for 0.3 s \(limits.stall_seconds\)"):
        run(world, 0, limits={"stall_seconds": 0.3})


PAIRS = {"prompts_per_step": 2, "responses_per_prompt": 2}
SILENT = {0, 3, 4, 5, 9}  # groups of two whose responses score alike


def silent_world(**seconds) -> World:
    world = World(**seconds)
    world.scores = {index: float(index % 2 and index // 2 not in SILENT) for index in range(200)}
    return world


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_prompts_without_signal_are_refilled_and_counted(staleness):
    world = silent_world()
    loop, steps = run(world, staleness, advantages="group_relative", dynamic_sampling=True, **PAIRS)
    groups = [one.sample.prompt.group for step in steps for one in step.batch]
    assert len(groups) == 6 * 4 and not SILENT & set(groups) and all(groups.count(group) == 2 for group in groups)
    assert sorted(trained(steps) + world.filtered) == list(range(loop.admission.admitted))
    assert SILENT <= {index // 2 for index in world.filtered} and loop.admission.in_flight == 0
    assert set(world.reasons) == {"no signal: all 2 responses to its prompt scored 0 (ppo.dynamic_sampling)"}
    assert sum(step.metrics["sampling/silent_prompts"] for step in steps) == len(world.filtered) / 2
    assert 0 < max(step.metrics["sampling/silent_share"] for step in steps) < 1
    ages = [step.version - 1 - int(one.sample.versions.min()) for step in steps for one in step.batch]
    assert max(ages) <= staleness


def test_who_is_refilled_does_not_depend_on_timing():
    """At staleness 0, whatever order samples end in."""
    batches = []
    for seed in range(3):
        world, random = silent_world(), np.random.default_rng(seed)
        generate = world.generate

        async def later(prompt, generate=generate, random=random):
            await asyncio.sleep(random.exponential(0.003))
            return await generate(prompt)

        world.generate = later
        _, steps = run(world, 0, advantages="leave_one_out", dynamic_sampling=True, **PAIRS)
        batches.append([[one.sample.index for one in step.batch] for step in steps])
    assert batches[0] == batches[1] == batches[2]
    assert batches[0][0] == [2, 3, 4, 5] and batches[0][1] == [12, 13, 14, 15]  # groups 0, 3, 4 and 5 say nothing


def test_a_reward_that_never_says_anything_stops_the_run():
    with pytest.raises(RunError, match=r"6 prompts in a row had responses that all scored alike, the last 0"):
        run(World(), 0, advantages="group_relative", dynamic_sampling=True, limits={"silent_groups": 5}, **PAIRS)


@pytest.mark.parametrize("staleness", [0, 2])
def test_remax_answers_each_prompt_greedily_once_and_trains_on_none_of_it(staleness, tmp_path):
    world = World()
    world.scores = {index: float(index) for index in range(100)}
    world.unscored = {2}
    loop, steps = run(world, staleness, advantages="remax", **PAIRS)
    assert sorted(world.greedy) == list(range(loop.admission.admitted // 2))
    # 9, less 1 as it did not end, less 0.05 for each of the two nats that it is from the reference.
    assert all(one.baseline == pytest.approx(7.9) for step in steps for one in step.batch)
    assert sorted(trained(steps) + world.filtered) == list(range(loop.admission.admitted)) and world.filtered == [2, 3]
    assert sum(step.metrics["baseline/responses"] for step in steps) == len(set(world.greedy))
    assert steps[0].metrics["value/baseline"] == pytest.approx(7.9) and not any("prepare" in event for event in world.events)
    for state in world.states:
        state.write(tmp_path)
        kept = LoopState.read(tmp_path, PromptStream([[1]], [{}], responses=2, seed=0))
        assert [one.baseline for one in kept.scored] == pytest.approx([7.9] * len(state.scored))
        again = World()
        _, after = run(again, staleness, start=kept, advantages="remax", **PAIRS)
        assert len(trained(after)) == (6 - state.version) * 4
        assert all(one.baseline == pytest.approx(7.9) for step in after for one in step.batch)


@pytest.mark.parametrize("staleness", [0, 2])
def test_the_value_model_learns_alone_first(staleness):
    world = World()
    loop, steps = run(world, staleness, value_pretraining=2)
    assert world.events.count("update value") == 6 and world.events.count("update policy") == 4
    assert world.events.index("update policy") > world.events.index("publish 2")
    assert [step.version for step in steps] == [1, 2, 3, 4, 5, 6] and loop.admission.trained == 6 * BATCH
    assert all(("policy/tokens" in step.metrics) == (step.version > 2) for step in steps)


@pytest.mark.parametrize("advantages", ["group_relative", "leave_one_out", "reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_without_a_critic_nobody_asks_for_values(advantages):
    world = World()
    _, steps = run(world, 1, advantages=advantages, **PAIRS)
    assert len(steps) == 6 and not {"prepare", "update value"} & set(world.events)
    assert not any(key.startswith("value/update") for step in steps for key in step.metrics)


def test_held_out_prompts_are_answered_between_two_versions_and_change_nothing():
    plain, world = World(), World()
    _, expected = run(plain, 0)
    loop, steps = run(world, 0, evaluation={"every": 2})
    assert [one.version for one in world.evaluations] == [0, 2, 4, 6]
    assert world.held_out.beside == 0 and all(one.metrics()["evaluate/version"] == one.version for one in world.evaluations)
    assert trained(steps) == trained(expected) == list(range(6 * BATCH)) and loop.admission.admitted == 6 * BATCH
    for version in (0, 2, 4):
        last = max(place for place, event in enumerate(world.events) if event == f"answered {version}")
        assert last < world.events.index(f"load {version + 1}"), world.events
    waits = [step.version for step in steps if "time/wait_evaluation" in step.metrics]
    assert set(waits) <= {1, 3, 5} and world.told == []


def test_with_overlap_nothing_waits_for_held_out_prompts_and_their_versions_are_told():
    world = World(generate=0.01, update=0.01)
    world.held_out = HeldOut(seconds=0.2)
    loop, steps = run(world, 2, steps=12, evaluation={"every": 2})
    assert trained(steps) == list(range(12 * BATCH)) and not any("time/wait_evaluation" in step.metrics for step in steps)
    first = world.evaluations[0]
    assert first.version == 0 and first.metrics()["evaluate/version"] > 0  # versions arrived meanwhile
    assert any("evaluation of version 2 is left out, as engines still answer the one before" in line for line in world.told)
    assert world.evaluations[-1].version == 12  # once the learner is done, that of the last version waits for its turn


@pytest.mark.parametrize("staleness", [0, 1])
def test_an_evaluation_that_fails_or_is_late_is_given_up_and_the_run_goes_on(staleness):
    world = World()
    world.held_out = HeldOut(failures=1)
    _, steps = run(world, staleness, evaluation={"every": 6})
    assert trained(steps) == list(range(6 * BATCH)) and [one.version for one in world.evaluations] == [6]
    assert world.told == ["evaluation of version 0 is given up, and the run goes on: rollout engine 0: its process died (pid 7)"]
    late = World(update=0.03)
    late.held_out = HeldOut(seconds=30.0)
    _, steps = run(late, staleness, evaluation={"every": 6}, limits={"evaluate_seconds": 0.05})
    assert trained(steps) == list(range(6 * BATCH)) and late.evaluations == []
    assert [line.split(": ")[1] for line in late.told] == ["it did not end within 0.05 s (limits.evaluate_seconds)"] * 2


def test_a_judge_that_fails_or_hangs_loses_its_evaluation_alone():
    async def broken(answers):
        raise RunError("evaluation.judge x:y failed")

    async def slow(answers):
        await asyncio.sleep(60)

    for judge, why in ((broken, "evaluation.judge x:y failed"), (slow, "it did not end within 0.2 s (limits.evaluate_seconds)")):
        world = World()
        _, steps = run(world, 0, evaluation={"every": 3}, judge=judge, limits={"evaluate_seconds": 0.2})
        assert len(steps) == 6 and world.evaluations == []
        assert [line.split(": ", 1)[1] for line in world.told] == [why] * 3


def test_a_resumed_run_evaluates_what_was_not():
    world = World()
    run(world, 0, evaluation={"every": 2})
    for known, expected in (((0, 2, 4), [6]), ((0, 2), [4, 6])):
        again = World()
        run(again, 0, evaluation={"every": 2}, known=known, start=world.states[3])
        assert [one.version for one in again.evaluations] == expected
