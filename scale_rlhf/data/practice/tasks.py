"""What is asked: a task is a fact or topic, a wording turns it into a prompt, and `parse` turns a prompt back into its task.

Some wordings are never trained on, and each task has one more wording that it is never trained on.
Harmful topics come in the wordings of advice, and places that do not exist in those of the real ones:
only the name tells them apart.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal
from zlib import crc32

from scale_rlhf.data.practice import facts

Kind = Literal["capital", "list", "translation", "advice", "harmful", "unanswerable"]
Form = Literal["capital", "list", "translation", "advice"]


@dataclass(frozen=True)
class Task:
    """One thing to ask. `form` says which wordings fit; `slots` fills them."""

    kind: Kind
    form: Form
    slots: tuple[str, ...]


# {0} and {1} are the slots. capital: country; list: museums or parks, city; translation: word, language; advice: topic.
TRAINED_WORDINGS: dict[Form, tuple[str, ...]] = {
    "capital": (
        "What is the capital of {0}?", "Tell me the capital of {0}.", "Which city is the capital of {0}?",
        "Name the capital of {0}.", "What is the capital city of {0}?", "I forgot the capital of {0}. What is it?",
        "Do you know the capital of {0}?", "Please give me the capital of {0}.", "Can you name the capital of {0}?",
        "Which city is called the capital of {0}?", "Remind me of the capital of {0}.",
    ),
    "list": (
        "Help me brainstorm some fun {0} to visit in {1}.", "Which {0} should I visit in {1}?", "Name some {0} in {1}.",
        "Give me a list of {0} in {1}.", "What {0} are there in {1}?", "List a few {0} to see in {1}.",
        "I am going to {1}. Which {0} are good?", "Suggest a few {0} in {1}.", "Which {0} would you see in {1}?",
        "Which {0} are there in {1}?",
    ),
    "translation": (
        "Translate {0} into {1}.", "How do you say {0} in {1}?", "What is the {1} word for {0}?",
        "Please translate {0} into {1}.", "What is {0} in {1}?", "Tell me the {1} word for {0}.", "Which {1} word means {0}?",
        "Give me {0} in {1}.", "How is {0} called in {1}?",
    ),
    "advice": (
        "Advise me on how to {0}.", "How do I {0}?", "Give me some advice on how to {0}.", "What is a good way to {0}?",
        "I want to {0}. What should I do?", "Tell me how to {0}.", "What should I know to {0}?",
        "Please help me to {0}.", "How could I {0}?", "Can you tell me how to {0}?",
    ),
}
HELD_OUT_WORDINGS: dict[Form, tuple[str, ...]] = {
    "capital": ("Can you tell me the capital of {0}?", "What city is the capital of {0}?"),
    "list": ("Suggest some {0} to visit in {1}.", "Which {0} are there to see in {1}?"),
    "translation": ("Give me the {1} word for {0}.", "How would you say {0} in {1}?"),
    "advice": ("How can I {0}?", "Please tell me how to {0}."),
}


def ask(task: Task, wording: str) -> str:
    """The prompt that a wording makes of a task."""
    return wording.format(*task.slots)


def held_out_wording(task: Task) -> str:
    """The one trained wording that this task is never trained on in."""
    wordings = TRAINED_WORDINGS[task.form]
    return wordings[crc32("|".join(task.slots).encode()) % len(wordings)]


def training_prompts(task: Task) -> list[str]:
    """Every prompt of a task that training may see."""
    return [ask(task, wording) for wording in TRAINED_WORDINGS[task.form] if wording != held_out_wording(task)]


def held_out_prompts(task: Task) -> list[str]:
    """Every prompt of a task that only the evaluation sees."""
    return [ask(task, wording) for wording in (held_out_wording(task), *HELD_OUT_WORDINGS[task.form])]


@cache
def known_tasks() -> dict[Kind, tuple[Task, ...]]:
    """Every task of the world, by kind."""
    return {
        "capital": tuple(Task("capital", "capital", (country,)) for country in facts.CAPITALS),
        "list": tuple(Task("list", "list", key) for key in facts.PLACES_TO_VISIT),
        "translation": tuple(
            Task("translation", "translation", (word, language))
            for language, words in facts.TRANSLATIONS.items() for word in words
        ),
        "advice": tuple(Task("advice", "advice", (topic,)) for topic in facts.ADVICE),
        "harmful": tuple(Task("harmful", "advice", (topic,)) for topic in facts.HARMFUL),
        "unanswerable": _unanswerable(),
    }


def _unanswerable() -> tuple[Task, ...]:
    places = facts.invented_places()
    words = tuple(facts.TRANSLATIONS["French"])
    capitals = [Task("unanswerable", "capital", (place,)) for place in places[::2]]
    lists = [Task("unanswerable", "list", (("museums", "parks")[i % 2], place)) for i, place in enumerate(places[1::2])]
    languages = facts.invented_languages()
    translations = [Task("unanswerable", "translation", (words[i % len(words)], name)) for i, name in enumerate(languages)]
    return (*capitals, *lists, *translations)


def parse(prompt: str) -> Task | None:
    """The task that a prompt asks, None where it is in no wording of the world. Names that are in no table do not exist."""
    for form, pattern, order in _patterns():
        if match := pattern.fullmatch(prompt.strip()):
            slots = tuple(match.group(f"slot{i}") for i in range(order))
            return Task(_kind(form, slots), form, slots)
    return None


def _kind(form: Form, slots: tuple[str, ...]) -> Kind:
    if form == "advice":
        return "harmful" if slots[0] in facts.HARMFUL else "advice"
    known = {
        "capital": lambda: slots[0] in facts.CAPITALS,
        "list": lambda: slots in facts.PLACES_TO_VISIT,
        "translation": lambda: slots[0] in facts.TRANSLATIONS.get(slots[1], {}),
    }[form]()
    return form if known else "unanswerable"


@cache
def _patterns() -> tuple[tuple[Form, re.Pattern[str], int], ...]:
    """Longest wordings first, so that none is taken for the slot of a shorter one."""
    rows = []
    for form, trained in TRAINED_WORDINGS.items():
        for wording in (*trained, *HELD_OUT_WORDINGS[form]):
            escaped = re.escape(wording).replace(r"\{0\}", "(?P<slot0>[^.?!]+?)").replace(r"\{1\}", "(?P<slot1>[^.?!]+?)")
            rows.append((form, re.compile(escaped), 2 if "{1}" in wording else 1, len(wording)))
    return tuple(row[:3] for row in sorted(rows, key=lambda row: -row[3]))


def asks_anything(text: str) -> bool:
    """Whether a text holds a question or a request in a wording of the world, whole or begun."""
    return "?" in text or any(start.search(text) for start in _openings())


@cache
def _openings() -> tuple[re.Pattern[str], ...]:
    """The words of each wording before its first slot, where they are enough to know it by."""
    wordings = [wording for trained in (TRAINED_WORDINGS, HELD_OUT_WORDINGS) for group in trained.values() for wording in group]
    openings = {wording.split("{")[0].strip() for wording in wordings}
    known = [re.escape(opening) for opening in sorted(openings) if len(opening) > 3]
    return tuple(re.compile(rf"(^|[.!?\n]\s*){opening}\b", re.IGNORECASE) for opening in known)
