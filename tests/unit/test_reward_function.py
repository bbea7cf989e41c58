"""Finding and calling a user's function, without Ray."""

import asyncio

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.reward.function import FunctionReward
from scale_rlhf.reward.function_worker import FunctionWorker, find_function
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.reward.text import Reader
from tests.tiny import samples

SOURCE = '''
LIMIT = 3

def lengths(samples):
    return [len(sample["response"]) for sample in samples]

def nothing(samples):
    pass

def breaks(samples):
    return [sample["rwo"] for sample in samples]
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(SOURCE)
    (tmp_path / "my_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def worker(path: str) -> FunctionWorker:
    made = FunctionWorker(path)
    made.load()
    return made


def test_a_function_scores(module):
    assert worker("my_rewards:lengths").score([{"response": "ab"}, {"response": ""}]) == [2.0, 0.0]


@pytest.mark.parametrize(("path", "said"), [
    ("my_rewards.lengths", "package.module:name"), ("my_rewards:", "package.module:name"),
    ("no_such:f", "no_such could not be imported"),
    ("my_broken:f", "a_module_that_is_not_there"), ("my_rewards:length", "did you mean my_rewards:lengths"),
    ("my_rewards:LIMIT", "expected a function at my_rewards:LIMIT, found int"),
])
def test_what_cannot_be_called_is_a_configuration_error(module, path, said):
    with pytest.raises(ConfigError) as error:
        find_function(path)
    assert said in str(error.value) and "reward.function" in str(error.value)


def test_a_function_that_fails_is_named_with_its_line(module):
    with pytest.raises(ScoringFailed) as error:
        worker("my_rewards:breaks").score([{"response": "ab"}])
    line = SOURCE.splitlines().index('    return [sample["rwo"] for sample in samples]') + 1
    assert "my_rewards:breaks raised KeyError: 'rwo'" in str(error.value) and f"my_rewards.py:{line}" in str(error.value)
    with pytest.raises(ScoringFailed, match="my_rewards:nothing: expected a list of 1 finite numbers.*None"):
        worker("my_rewards:nothing").score([{"response": "ab"}])


class Texts:
    def decode(self, ids, **_):
        return "x" * len(ids)


class Replica:
    """Stands for the actor: each call takes the next of `does`, which is what it returns, raises, or waits for."""

    def __init__(self, does):
        self.does, self.load, self.score = does, self, self
        self.calls = 0

    def remote(self, *given):
        async def answer():
            if not given:
                return None  # it loads
            self.calls += 1
            does = self.does.pop(0) if len(self.does) > 1 else self.does[0]
            if isinstance(does, Exception):
                raise does
            if does is None:
                await asyncio.sleep(60)
            return does

        return answer()


@pytest.fixture
def scored(monkeypatch):
    """Scores of 3 samples by replicas that do as they are told, one of `does` after another; and who was killed."""
    killed, made = [], []
    monkeypatch.setattr("ray.kill", killed.append)

    def run(*does, calls=1, **section):
        config = RunConfig(reward={"function": "a:b", "timeout_seconds": 0.1, "retry_seconds": 0.01, **section})
        fleet = FunctionReward(config, "a:b", Reader(Texts()))
        waiting = list(does)

        def make(place):
            made.append(Replica(waiting.pop(0)))
            return made[-1]

        monkeypatch.setattr(fleet, "_made", make)

        async def main():
            await fleet.start()
            scores = await asyncio.gather(*(fleet.score(samples(3), fixed=True, group=0) for _ in range(calls)))
            return scores, await fleet.metrics()

        return asyncio.run(main())

    run.killed, run.made = killed, made
    return run


def test_a_function_that_raises_is_tried_again_in_the_same_process(scored):
    (scores,), metrics = scored([ScoringFailed("no luck"), ScoringFailed("none"), [1.0, 2.0, 3.0]])
    assert scores == [1.0, 2.0, 3.0] and not scored.killed
    assert metrics["failed_tries"] == 2 and metrics["failed_calls"] == 0


def test_tries_of_a_function_are_bounded(scored):
    with pytest.raises(ScoringFailed, match=r"no luck \(attempt 3 of 3\)"):
        scored([ScoringFailed("no luck")], retries=2)
    assert scored.made[0].calls == 3


def test_a_function_that_hangs_gets_a_new_process(scored):
    (scores,), _ = scored([None], [[1.0, 2.0, 3.0]])
    assert scores == [1.0, 2.0, 3.0] and scored.killed == scored.made[:1]


def test_a_function_whose_process_died_gets_a_new_one(scored):
    (scores,), _ = scored([OSError("the actor died")], [[1.0, 2.0, 3.0]])
    assert scores == [1.0, 2.0, 3.0] and scored.killed == scored.made[:1]


def test_calls_that_hang_together_replace_their_process_once(scored):
    scores, _ = scored([None], [[1.0, 2.0, 3.0]], calls=4)
    assert scores == [[1.0, 2.0, 3.0]] * 4 and len(scored.made) == 2


def test_a_function_that_always_hangs_fails_with_its_name(scored):
    with pytest.raises(ScoringFailed, match=r"reward.function a:b, replica 0: scoring of 3 samples did not end.*attempt 2 of 2"):
        scored([None], [None], [None], retries=1)
    assert len(scored.killed) == 2


def test_a_wrong_name_is_not_tried_again(scored):
    with pytest.raises(ConfigError, match="no such function"):
        scored([ConfigError("no such function")])
    assert scored.made[0].calls == 1


def test_a_failure_of_scoring_is_an_error_of_the_run():
    assert issubclass(ScoringFailed, RunError) and not issubclass(ConfigError, ScoringFailed)


def test_the_process_of_a_function_needs_no_torch(module):
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = None\nfrom scale_rlhf.reward.function_worker import FunctionWorker as W\n" \
           f"sys.path.insert(0, {str(module)!r})\nw = W('my_rewards:lengths'); w.load(); print(w.score([dict(response='abc')]))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[3.0]"
