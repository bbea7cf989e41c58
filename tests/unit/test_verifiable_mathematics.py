"""Final answers: right however they are written, wrong by a digit, and read in bounded time whatever they are."""
# ruff: noqa: E501 - a case stays on one line

import gzip
import json
import time
from fractions import Fraction

import pytest

from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.verifiable.mathematics import final_answer, reference_answer
from scale_rlhf.reward.verifiable.numbers import read_number
from tests.shared_data import shared


def score(response: str, reference: str, **more) -> float:
    return final_answer([{"response": response, "row": {"answer": reference}}], **more)[0]


RIGHT = [
    ("1,234", "1234"), ("$1,234.00", "1234"), ("1234", "#### 1,234"), (r"\boxed{1{,}234}", "1234"), (r"\boxed{12\,000}", "12000"),
    ("The answer is 42.", "42"), ("The answer is 42 apples.", "42"), ("The answer is that she has 42 apples.", "42"),
    ("She has 42 apples left.", "42"), ("**42**", "42"), ("The answer is **42**.", "42"), ("The answer is $42$.", "42"),
    (r"so \boxed{\frac{3}{4}}", "0.75"), (r"\boxed{\dfrac34}", "3/4"), (r"\boxed{3\frac{1}{2}}", "3.5"), ("$\\frac{3}{4}$", "0.75"),
    ("3 1/2", "7/2"), ("the answer is 1 3/4 cups", "1.75"), (".5", "1/2"), (r"\boxed{-\frac{1}{2}}", "-0.5"),
    ("50%", "50"), ("50 %", "1/2"), ("50 percent", "50"), (r"\boxed{50\%}", "0.5"), ("25", "25%"),
    (r"\(\boxed{\$42}\)", "42"), (r"$\boxed{42\text{ apples}}$", "42"), ("#### $42", "42"), ("The total is $42.", "42"), (r"\boxed{$42}", "42"),
    ("#### 42 km/h", "42"), (r"\boxed{5\text{ m}^2}", "5"), (r"\boxed{90^\circ}", "90"), (r"\boxed{12,000\ \text{dollars}}", "12000"),
    ("<answer>42</answer>", "#### 42"), ("x = 42", "42"), (r"\boxed{x=42}", "42"), ("The answer is 6*7 = 42", "42"),
    ("−5", "-5"), ("-$5", "-5"), ("$-5", "-5"), (r"2.5\times10^{3}", "2500"), ("#### 2.5e3", "2500"), ("5 million", "5000000"), ("#### 5k", "5000"),
    (r"The final answer is \boxed{42}.", "42"), ("The answer is: 42", "42"), ("**Answer:** 42", "42"), ("The answer is #### 42", "42"),
    (r"\boxed{42} is the answer: it fits.", "42"), ("Final Answer: The final answer is $42$. I hope it is correct.", "42"), ("answer = 42", "42"),
    ("My answer follows. She has 42.", "42"), ("First #### 41\nNo: #### 42", "42"), (r"\boxed{(A)}", "(A)"), ("answer: $x^2+1$", "x^2 + 1"),
]
WRONG = [
    ("43", "42"), ("4.2", "42"), ("420", "42"), ("-42", "42"), ("42.5", "42"), ("42.0001", "42"), ("0.333", "1/3"), ("1/3", "3"), ("4/2", "42"),
    ("#### 42 or 43", "42"), (r"\boxed{42, 43}", "42"), ("The answer is not 42.", "42"), ("#### 41\nThe answer is 42 or so 43", "42"),
    (r"\boxed{42x}", "42"), ("#### 42x", "42"), (r"\boxed{2^{42}}", "42"), (r"\boxed{4 2}", "42"), ("42 43", "42"),
    ("#### 0.5%", "0.5"), ("#### 5 million", "5"), ("#### 5", "5 million"), ("#### 1,23", "123"), ("#### 1,2345", "12345"),
    (r"\boxed{42", "42"), (r"\boxed{}", "42"), ("####", "42"), ("", "42"), ("#### 42/0", "42"), ("#### 1e99999", "1"), ("#### nan", "42"),
    ("<answer>42", "42"), ("<answer>41</answer> The answer is 42.", "42"), ("The answer is 41. 42", "42"), (r"The answer is \boxed{41}", "42"),
    (r"I think 42, but \boxed{41}", "42"), ("#### 42\n#### 41", "42"), ("#### inf", "inf inf"), (r"\boxed{(B)}", "(A)"),
]


@pytest.mark.parametrize(("response", "reference"), RIGHT)
def test_the_same_number_is_right(response, reference):
    assert score(response, reference) == 1.0


@pytest.mark.parametrize(("response", "reference"), WRONG)
def test_a_near_miss_is_wrong(response, reference):
    assert score(response, reference) == 0.0


def test_a_mark_can_be_asked_for():
    assert score("It is 42", "42") == 1.0 and score("It is 42", "42", marked=True) == 0.0
    assert score("#### 42", "42", marked=True) == 1.0


def test_a_row_without_a_reference_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"f.jsonl:3: mathematics:final_answer needs the column `answer`, and the row has `solution`"):
        final_answer([{"response": "1", "row": {"solution": "1", "_at": "f.jsonl:3"}}])


@pytest.mark.parametrize("text", [
    "9" * 100_000, "#### " + "9" * 5000, r"\boxed{" * 3000, "1," * 5000, "answer is " * 1000 + "a " * 3000, "$" * 5000, "1 " * 2000 + "/",
    "a " * 5000 + "!", r"\frac{" * 1000, "- " * 2000, "answer: " + "ab,   " * 1000, "#### " + "a " * 2000, "#### 1" + " a" * 2000, "{" * 4000,
    "1 2/3" * 1000, "=" * 4000, "<answer>" * 500, "#### 1e999", " " * 4000 + "1",
])
def test_no_text_takes_long(text):
    began = time.process_time()
    score(text, "42")
    assert time.process_time() - began < 0.5


def paraphrases(value: Fraction) -> list[str]:
    """Of a whole number or a decimal one."""
    n = int(value) if value.denominator == 1 else float(value)
    top, bottom = 3 * value.numerator, 3 * value.denominator
    sign = "-" if top < 0 else ""
    return [f"So it is {n} in all.", f"The answer is {n:,}.", f"#### {n:,}", rf"\boxed{{{n}}}", rf"$\boxed{{{n:,} \text{{ apples}}}}$", f"#### ${n:,}" if n >= 0 else f"#### -${-n:,}",
            rf"\boxed{{{sign}\frac{{{abs(top)}}}{{{bottom}}}}}", f"#### {n} km", f"The answer is {n} percent" if abs(n) >= 1 else f"#### {n}", f"<answer>{n}</answer>", f"**Answer: {n}**"]


def near_misses(value: Fraction) -> list[str]:
    n = int(value) if value.denominator == 1 else float(value)
    other = [n + 1, n - 1, n * 10 + 1, -n - 1]
    return [*(f"#### {one}" for one in other), f"#### {n} or {n + 1}", f"#### {n}/7", rf"\boxed{{{n}x}}", f"The answer is not {n}.", rf"\boxed{{{n}", f"#### {n} thousand and 1"]


def test_every_answer_of_gsm8k():
    with gzip.open(shared("gsm8k/problems.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 7473
    assert final_answer([{"response": row["answer"], "row": row} for row in rows]) == [1.0] * len(rows)
    for row in rows[::5]:
        value = read_number(reference_answer(row["answer"])).value
        for said in paraphrases(value):
            assert score(said, row["answer"]) == 1.0, (said, row["answer"][-20:])
        for said in near_misses(value):
            assert score(said, row["answer"]) == 0.0, (said, row["answer"][-20:])
