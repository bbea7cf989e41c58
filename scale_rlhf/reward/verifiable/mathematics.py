"""Mathematics, by the final answer: 1 where it is the reference's, 0 otherwise.

    reward: {function: "scale_rlhf.reward.verifiable.mathematics:final_answer", arguments: {column: answer}}

The answer is what is marked last: \\boxed{…}, "#### …", <answer>…</answer>; else what "the answer is"; else the last number of
the response, unless `marked` asks for a mark. A mark that holds two numbers holds no answer: no second guess is paid.
"""

import re
from collections.abc import Sequence

from scale_rlhf.reward.verifiable.columns import column as column_of
from scale_rlhf.reward.verifiable.numbers import Number, plain, read_number

LONGEST = 4000  # characters from the end of a text that are looked at
_MARKS = re.compile(r"\\boxed\s*\{|####|<answer>")
_SAID = re.compile(r"\b[Aa]nswer(?:\*\*)?(?: is| was| =|(?= ?:)) ?:?")
_SENTENCE = re.compile(r"(?:[.!?](?=\s|$)).*", re.DOTALL)
_LAST = re.compile(r"""
    [-−]?[$€£¥₹]?[-−]? (?: \d+[ ]\d+/\d+ | \d+(?:,\d+)*(?:\.\d+)? | \.\d+ )
    [\w^*/-]*                                                  # whatever hangs on it: 42x and 2^42 are not 42
    (?: [ ]?% | [ ](?:percent|hundred|thousand|million|billion|trillion|dozen)\b )?
""", re.VERBOSE)
_LEADING = re.compile(r"(?:(?!not\b|never\b|neither\b)[A-Za-z]+,?[ ]+)*(?=[-−$€£¥₹.\d\\])")


def final_answer(samples: Sequence[dict], *, column: str = "answer", marked: bool = False) -> list[float]:
    """1.0 for each response whose final answer equals the reference's, else 0.0.

    column: of the data file, with the reference: a number, LaTeX, or a worked solution with a mark (GSM8K's "#### 42").
    marked: an answer without a mark is none. Raises ConfigError where a row has no such column.
    """
    references = [str(column_of(sample, column, "mathematics:final_answer")) for sample in samples]
    return [float(same(found_answer(sample["response"], marked), reference_answer(reference)))
            for sample, reference in zip(samples, references, strict=True)]


def same(answer: str | None, reference: str) -> bool:
    """Whether two answers are one: as exact numbers where both are numbers, as text without spaces where neither is."""
    if answer is None:
        return False
    one, other = _number(answer), _number(reference)
    if isinstance(one, Number) and isinstance(other, Number):
        return one.same(other)
    return one is other is None and bool(text := _bare(answer)) and text == _bare(reference)


def found_answer(response: str, marked: bool = False) -> str | None:
    """What a response gives as its answer, or None."""
    text = response[-LONGEST:]
    if (said := last_marked(text)) is not None:
        return said
    numbers = [] if marked else _LAST.findall(plain(text))
    return numbers[-1] if numbers else None


def reference_answer(text: str) -> str:
    """The marked answer of a worked solution; a text without a mark is the answer itself."""
    return said if (said := last_marked(text[-LONGEST:])) is not None else text


def last_marked(text: str) -> str | None:
    """What stands in the last mark; "" where it holds nothing, or it never closes. None: there is no mark.

    "The answer is" counts where there is none of the others: it also stands in sentences about the answer.
    """
    for kind in (_MARKS, _SAID):
        if marks := list(kind.finditer(text)):
            return _held(text, marks[-1])
    return None


def _held(text: str, mark: re.Match) -> str:
    rest = text[mark.end():]
    if mark[0].startswith("\\"):
        return _braced(text, mark.end())
    if mark[0] == "<answer>":
        return rest.partition("</answer>")[0] if "</answer>" in rest else ""
    line = rest.partition("\n")[0]
    return line.strip() if mark[0] == "####" else _SENTENCE.sub("", line)


def _braced(text: str, start: int) -> str:
    """From `start`, just behind a brace, to the one that closes it."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return ""


def _number(text: str) -> Number | None:
    """Of an answer: "x = 42" and "she has 42 apples" are 42."""
    text = plain(text).rpartition("=")[2].strip()
    if leading := _LEADING.match(text):
        text = text[leading.end():]
    return read_number(text)


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", plain(text)).rstrip(".").lower()
