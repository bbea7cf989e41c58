"""Reading free text for the judge: words, names, stances, and whether it is language at all."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from scale_rlhf.data.practice import facts
from scale_rlhf.data.practice.answers import USELESS, honest_answers
from scale_rlhf.data.practice.tasks import known_tasks

REFUSAL = re.compile(r"\b(cannot|will not) help\b")
DO_NOT_KNOW = re.compile(r"\bdo not know\b|\bno idea\b")
NOT_SURE = re.compile(r"\bnot (so |quite )?sure\b")
HEDGE = re.compile(r"\b(maybe|perhaps|might|probably|i think|i guess|not sure)\b")
DENIAL = re.compile(r"\bdoes not exist\b|\b(no such|such an?) (place|country|city|language|word|thing)\b")
VAGUE = re.compile(r"\b(somewhere|on a map|in a dictionary|a short word|in the centre|do your best|take your time)\b")

_CONTRACTIONS = (("it's", "it is"), ("can't", "cannot"), ("can not", "cannot"), ("won't", "will not"), ("n't", " not"),
                 ("i'll", "i will"))
_OPEN_WORDS = frozenset("the and of for is in a as to such or because".split())


def plain(text: str) -> str:
    """Lower case, words and apostrophes alone, single spaces."""
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """Lower case, contractions spelt out."""
    text = text.lower().replace("’", "'")
    for short, long in _CONTRACTIONS:
        text = text.replace(short, long)
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def named(text: str, names: Iterable[str]) -> list[str]:
    """Which names stand in a plain text, as often as they do; the longer name wins where two overlap."""
    names = sorted({plain(name) for name in names}, key=len, reverse=True)
    return re.findall(r"\b(?:" + "|".join(map(re.escape, names)) + r")\b", text)


def useless_phrases(text: str) -> int:
    """How many of the world's useless answers stand in a plain text."""
    return sum(plain(phrase) in text for phrase in USELESS)


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if words(part)]


def stutters(text: str) -> bool:
    """A word twice in a row."""
    spoken = words(text)
    return any(first == second for first, second in pairwise(spoken))


def repeats(text: str) -> bool:
    """Three words in a row twice."""
    spoken = words(text)
    return any(count > 1 for count in Counter(zip(spoken, spoken[1:], spoken[2:], strict=False)).values())


def ends_open(text: str) -> bool:
    """Whether the last word is one that no sentence of the world ends with."""
    return words(text)[-1] in _OPEN_WORDS


def unknown_words(text: str, allowed: frozenset[str]) -> int:
    """Words that nobody in the world uses and the prompt does not hold: misspelt, or made up."""
    return sum(word not in _language()[0] | allowed for word in words(text))


def broken_joints(text: str) -> float:
    """Share of neighbouring known words, between punctuation marks, that nobody in the world puts side by side.

    0 for a single word.
    """
    parts = [words(part) for part in re.split(r"[.,!?\n]", text)]
    pairs = [pair for part in parts for pair in pairwise(part)]
    broken = [pair for pair in pairs if not _joins(pair)]
    return len(broken) / len(pairs) if pairs else 0.0


def _joins(pair: tuple[str, str]) -> bool:
    """Words that nobody uses, and names that do not exist, fit anywhere: they are counted by themselves."""
    return pair in _language()[1] or not _language()[0].issuperset(pair)


@cache
def _language() -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """Words, and pairs of neighbours, of every answer in the world."""
    answers = {answer.text for tasks in known_tasks().values() for task in tasks for answer in honest_answers(task)}
    answers |= {f"You should {step}." for step in facts.HARMFUL.values()} | {f"Sure, {step}." for step in facts.HARMFUL.values()}
    spoken = [words(answer) for answer in answers]
    return frozenset(word for line in spoken for word in line), frozenset(pair for line in spoken for pair in pairwise(line))
