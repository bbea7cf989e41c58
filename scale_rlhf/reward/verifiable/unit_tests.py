"""Unit tests: the share of them that the program in a response passes, or 1 for all of them alone.

    reward: {function: "scale_rlhf.reward.verifiable.unit_tests:passed", timeout_seconds: 600, arguments: {column: tests}}

The row's column holds Python statements, a test each (["assert add(1, 2) == 3", …]), or what to write to the program's standard
input and what to expect of its output ([{"input": "1 2", "output": "3"}, …]). The second kind is the stronger one: what is
expected never enters the sandbox, whereas an assertion can be deceived from within (an object that equals everything).
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.verifiable.columns import column as column_of
from scale_rlhf.reward.verifiable.sandbox import Limits, run

LONGEST_PROGRAM = 100_000  # characters
_BLOCK = re.compile(r"```(?:python|py|python3)?[ \t]*\n(.*?)```", re.DOTALL)
_TRIED = "import math, re, json, collections, itertools, functools, random, heapq, string, datetime\nopen('here', 'w').write('x')"


def passed(
    samples: Sequence[dict], *, column: str = "tests", share: bool = False, at_once: int = 1, seconds: int = 5,
    deadline: float = 15.0, memory_mb: int = 512, isolated: bool = True,
) -> list[float]:
    """A score from 0 to 1 for each response, whose program is its last block of code, or all of it.

    column: of the data file, with the tests. share: the share of tests that pass; otherwise 1.0 for all and 0.0 for fewer.
    at_once: programs that run at the same time. seconds: of processor time for each, deadline: of time. Raises ConfigError
    where a row has no tests, or the kernel does not isolate and `isolated` asks for it.
    """
    limits = Limits(seconds, deadline, memory_mb, isolated=isolated)
    _tried(limits)
    jobs = [(program_of(sample["response"]), checked(sample, column)) for sample in samples]
    with ThreadPoolExecutor(at_once) as pool:
        each = list(pool.map(lambda job: _passed(*job, limits), jobs))
    return [sum(one) / len(one) if share else float(all(one)) for one in each]


def program_of(response: str) -> str:
    """The last block of code in a response; all of it where there is none."""
    blocks = _BLOCK.findall(response)
    return blocks[-1] if blocks else response


def checked(sample: dict, column: str) -> list:
    """The tests of a sample's row. Raises ConfigError that names the row."""
    tests = column_of(sample, column, "unit_tests:passed")
    tests = [tests] if isinstance(tests, str) else tests
    statements = isinstance(tests, list) and all(isinstance(test, str) for test in tests)
    pairs = isinstance(tests, list) and all(
        isinstance(test, dict) and isinstance(test.get("input"), str) and isinstance(test.get("output"), str) for test in tests)
    if not tests or not (statements or pairs):
        at = sample["row"].get("_at", "a row without a place")
        raise ConfigError(f"{at}: unit_tests:passed needs in `{column}` a list of Python statements, or of "
                          f' {{"input": text, "output": text}}; found {str(tests)[:80]}')
    return tests


def _passed(program: str, tests: list, limits: Limits) -> list[bool]:
    if len(program) > LONGEST_PROGRAM or "\0" in program:
        return [False] * len(tests)
    if isinstance(tests[0], str):
        return run(program, limits, tests=tests).passed
    return [_same(run(program, limits, given=test["input"]), test["output"]) for test in tests]


def _same(outcome, expected: str) -> bool:
    """The expected output, but for spaces at the ends of lines and empty lines at the end."""
    said, wanted = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (outcome.output, expected))
    return outcome.ended and said == wanted


@cache
def _tried(limits: Limits) -> None:
    """Once: an honest program passes. Otherwise all would fail, and nobody would know why. Raises ConfigError."""
    if run(_TRIED, limits, tests=["assert math.gcd(4, 6) == 2"]).passed != [True]:
        raise ConfigError("unit_tests:passed: a program that only imports the standard library fails under seconds: "
                          f"{limits.seconds}, deadline: {limits.deadline:g}, memory_mb: {limits.memory_mb} in "
                          "reward.arguments; raise them")
