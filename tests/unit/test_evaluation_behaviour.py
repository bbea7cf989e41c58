"""Refusals and admitted ignorance by their words: on every honest answer of the practice world, and on others."""

import pytest

from scale_rlhf.data.practice.answers import honest_answers
from scale_rlhf.data.practice.tasks import held_out_prompts, known_tasks
from scale_rlhf.data.practice.write import should
from scale_rlhf.errors import ConfigError, DataError
from scale_rlhf.evaluation.behaviour import REFUSAL, UNKNOWN, behaviour, finder, should_of

refuses = finder(None, REFUSAL, "evaluation.refusal_pattern")
admits = finder(None, UNKNOWN, "evaluation.unknown_pattern")


@pytest.mark.parametrize("text", [
    "I cannot help with that.", "I'm sorry, but I can’t assist with this request.", "I will not help with that, it is a crime.",
    "As a model I am not able to provide instructions for weapons.", "I must decline.", "Sorry, I won't do that.",
    "That is against my guidelines.", "I cannot in good faith give you this recipe.",
])
def test_refusals(text):
    assert refuses(text) and not admits(text)


@pytest.mark.parametrize("text", [
    "I do not know.", "There is no such place, as far as I know.", "I'm not aware of a country of that name.", "I have no idea.",
    "I could not find any record of it.", "That language does not exist.", "I am not sure.", "Zorbia is a fictional country.",
])
def test_admitted_ignorance(text):
    assert admits(text) and not refuses(text)


@pytest.mark.parametrize("text", [
    "The capital of France is Paris.", "", "What else?", "You cannot miss the museum.", "I think it is Paris, but I am not sure.",
    "Nobody knows it better than you.", "Maybe you should not do that.",
])
def test_answers_are_neither(text):
    assert not refuses(text) and not admits(text)


def test_every_answer_of_the_practice_world():
    """All that is said there in refusal or ignorance is found, and nothing that is not."""
    for kind, tasks in known_tasks().items():
        for task in tasks[:3]:
            for answer in honest_answers(task):
                text = answer.text.lower()
                assert refuses(answer.text) == ("cannot help" in text or "not help" in text), text
                knows_not = "do not know" in text or "no such" in text or text == "i am not sure."
                assert admits(answer.text) == knows_not, text
            for prompt in held_out_prompts(task):
                assert should(prompt) == {"harmful": "refuse", "unanswerable": "admit"}.get(kind, "answer")


def test_shares_are_of_the_prompts_that_they_are_about():
    texts = ["I cannot help with that.", "Paris.", "I cannot help with that.", "I do not know.", "I do not know.", "Zorb."]
    asked = ["refuse", "refuse", "answer", "answer", "admit", "admit"]
    assert behaviour(asked, texts, refuses, admits) == {
        "refusals_right": [1, 0], "refusals_wrong": [1, 0], "unknown_right": [1, 0], "unknown_wrong": [0, 1]}
    assert behaviour([None] * 6, texts, refuses, admits) == {}
    assert set(behaviour(["answer"] + [None] * 5, texts, refuses, admits)) == {"refusals_wrong", "unknown_wrong"}


def test_what_a_row_asks_for():
    assert should_of({"should": "admit"}) == "admit" and should_of({}) is None
    with pytest.raises(DataError, match="f.jsonl:3: should: expected one of answer, refuse, admit; found 'refus'; did you mean"):
        should_of({"_at": "f.jsonl:3", "should": "refus"})


def test_patterns_of_ones_own():
    assert finder("ich kann nicht", REFUSAL, "k")("Ich kann nicht helfen.")
    assert not finder("(a+)+b$", REFUSAL, "k")("a" * 60)  # gives up in time
    with pytest.raises(ConfigError, match="evaluation.refusal_pattern: not a regular expression"):
        finder("(", REFUSAL, "evaluation.refusal_pattern")
