"""How different a model's answers to one prompt are from each other: by words, with no model.

Alignment tends to narrow what a model says (Kirk et al. 2024), which a score does not show. Answers are cut into words and
marks, in lower case, so that the numbers do not depend on a tokenizer.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import exp, log

ORDERS = 4  # n-grams of BLEU: 1 to 4
_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams over all n-grams of these texts together (Li et al. 2016): 1 where none comes twice.

    None where there are no n-grams. Longer texts repeat more: compare models whose answers are about as long.
    """
    found = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(found)) / len(found) if found else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text against all the others (Zhu et al. 2018): 1 where all are the same, 0 where they share no word.

    None of fewer than two texts.
    """
    if len(texts) < 2:
        return None
    cut = [words(text) for text in texts]
    return sum(bleu(one, [*cut[:place], *cut[place + 1 :]]) for place, one in enumerate(cut)) / len(cut)


def bleu(said: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Sentence BLEU (Papineni et al. 2002) with 1 added to the counts of n-grams of 2 words and more (Lin and Och 2004).

    Without it an answer of three words, which has no 4-gram, would always get 0. Orders of which it has none are left out.
    An empty text gets 1 beside another empty one, else 0.
    """
    if not said:
        return float(any(not reference for reference in references))
    logs = []
    for n in range(1, ORDERS + 1):
        matched, total = clipped_matches(said, references, n)
        if n == 1 and not matched:
            return 0.0
        if total:
            logs.append(log((matched + (n > 1)) / (total + (n > 1))))
    nearest = min((len(reference) for reference in references), key=lambda length: (abs(length - len(said)), length))
    brevity = min(0.0, 1 - nearest / len(said))
    return exp(brevity + sum(logs) / len(logs))


def clipped_matches(said: Sequence[str], references: Sequence[Sequence[str]], n: int) -> tuple[int, int]:
    """(n-grams that a reference has, each at most as often as the one that has it most often; n-grams in all)."""
    own = Counter(_grams(said, n))
    most: Counter = Counter()
    for reference in references:
        most |= Counter(_grams(reference, n))
    return sum((own & most).values()), sum(own.values())


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))
