"""The form of a response, without a look at what it says.

    reward: {function: "scale_rlhf.reward.verifiable.form:matches", arguments: {pattern: '.*#### -?\\d+\\s*'}}
    reward: {function: "scale_rlhf.reward.verifiable.form:thinks_then_answers"}
"""

from collections.abc import Sequence
from functools import cache

import regex

from scale_rlhf.errors import ConfigError

SECONDS = 0.1  # that one response may keep a pattern busy


def matches(samples: Sequence[dict], *, pattern: str, whole: bool = True) -> list[float]:
    """1.0 for each response that matches a regular expression, else 0.0; `.` matches line ends too.

    whole: all of the response, not a part. A response on which the pattern is not done after 0.1 s gets 0.0: patterns such as
    (a+)+b take for ever on texts that are made for it. Raises ConfigError where the pattern is none.
    """
    search = _compiled(pattern).fullmatch if whole else _compiled(pattern).search
    return [float(_found(search, sample["response"])) for sample in samples]


def thinks_then_answers(samples: Sequence[dict], *, think: str = "think", answer: str = "answer") -> list[float]:
    """1.0 for "<think>…</think> <answer>…</answer>" with nothing around it, each tag once, neither part empty; else 0.0."""
    return [float(_thinks_then_answers(sample["response"], think, answer)) for sample in samples]


@cache
def _compiled(pattern: str) -> regex.Pattern:
    try:
        return regex.compile(pattern, regex.DOTALL)
    except regex.error as error:
        raise ConfigError(f"reward.arguments.pattern: not a regular expression: {error}; found {pattern}") from None


def _found(search, text: str) -> bool:
    try:
        return search(text, timeout=SECONDS) is not None
    except TimeoutError:
        return False


def _thinks_then_answers(text: str, think: str, answer: str) -> bool:
    tags = [f"<{think}>", f"</{think}>", f"<{answer}>", f"</{answer}>"]
    if any(text.count(tag) != 1 for tag in tags):
        return False
    before, rest = text.split(tags[0])
    for tag in tags[1:]:  # each is in the text once: what the one before left holds it, or they are out of order
        if tag not in rest:
            return False
        part, rest = rest.split(tag)
        if bool(part.strip()) is (tag == tags[2]):  # something in each part, nothing between them
            return False
    return not before.strip() and not rest.strip()
