"""Form: what matches, and texts that are made to keep a pattern busy."""

import time

import pytest

from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.verifiable.form import matches, thinks_then_answers


def samples(*responses: str) -> list[dict]:
    return [{"response": response} for response in responses]


def test_the_whole_response_must_match_or_a_part():
    asked = samples("So\n#### 42", "#### 42", "#### x", "So #### 42 ")
    assert matches(asked, pattern=r".*\n#### -?[\d,.]+\s*") == [1.0, 0.0, 0.0, 0.0]
    assert matches(asked, pattern=r"#### \d+", whole=False) == [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(a|a)*b", r"(.*a){25}b", r"(a?){30}a{30}b"])
def test_a_pattern_that_would_take_for_ever_gives_up(pattern):
    began = time.monotonic()
    assert matches(samples("a" * 40 + "c"), pattern=pattern) == [0.0]
    assert time.monotonic() - began < 5


def test_what_is_no_pattern_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"reward.arguments.pattern: not a regular expression: .*; found \(a"):
        matches(samples("a"), pattern="(a")


@pytest.mark.parametrize(("text", "right"), [
    ("<think>a</think><answer>b</answer>", True), (" <think>a\nb</think>\n<answer>b</answer>\n", True),
    ("<think>a</think>b<answer>b</answer>", False), ("x<think>a</think><answer>b</answer>", False),
    ("<think></think><answer>b</answer>", False), ("<think>a</think><answer> </answer>", False),
    ("<answer>b</answer><think>a</think>", False), ("<think>a</think><answer>b</answer> c", False),
    ("<think>a<think></think><answer>b</answer>", False), ("<think>a<answer>b</answer></think>", False), ("", False),
    ("</think>a<think><answer>b</answer>", False), ("<think>a</think>", False),
])
def test_thinking_then_an_answer(text, right):
    assert thinks_then_answers(samples(text)) == [float(right)]
