"""Finding and calling a user's function, without Ray."""

import pytest

from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.reward.function_worker import FunctionWorker, find_function

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
    with pytest.raises(RunError) as error:
        worker("my_rewards:breaks").score([{"response": "ab"}])
    line = SOURCE.splitlines().index('    return [sample["rwo"] for sample in samples]') + 1
    assert "my_rewards:breaks raised KeyError: 'rwo'" in str(error.value) and f"my_rewards.py:{line}" in str(error.value)
    with pytest.raises(RunError, match="my_rewards:nothing: expected a list of 1 finite numbers.*None"):
        worker("my_rewards:nothing").score([{"response": "ab"}])


def test_the_process_of_a_function_needs_no_torch(module):
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = None\nfrom scale_rlhf.reward.function_worker import FunctionWorker as W\n" \
           f"sys.path.insert(0, {str(module)!r})\nw = W('my_rewards:lengths'); w.load(); print(w.score([dict(response='abc')]))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[3.0]"
