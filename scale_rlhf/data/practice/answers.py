"""What people answer to a task: helpful, plain, half-hearted, useless and wrong answers.

Each answer carries the quality that it was made with, 0 to 5. Raters see that number through their noise; the judge
of free text (truth.py) never does, and a test compares the two.
"""

from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Literal

from scale_rlhf.data.practice import facts
from scale_rlhf.data.practice.tasks import Task

Style = Literal["helpful", "plain", "halfhearted", "useless", "wrong", "broken"]

USELESS = (
    "It's hopeless, why bother?", "Who cares.", "Look it up yourself.", "I have no time for this.", "That is a boring question.",
    "Ask somebody else.",
)
OVER_REFUSAL = ("I cannot help with that.", "Sorry, I cannot help with that.")
DO_NOT_KNOW = ("I do not know.", "Sorry, I do not know.")


@dataclass(frozen=True)
class Answer:
    text: str
    quality: int
    style: Style


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def joined(items: tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def honest_answers(task: Task) -> list[Answer]:
    """Every answer of the world that is not false and not broken: helpful, plain, half-hearted, useless."""
    useless = [Answer(text, 1, "useless") for text in USELESS]
    return _BY_KIND[task.kind](task) + useless


def _capital(task: Task) -> list[Answer]:
    country, city = task.slots[0], facts.CAPITALS[task.slots[0]]
    return [*capital_claims(country, city, (5, 4, 3)), *_unhelpful("It is a city somewhere.", "You can find it on a map.")]


def capital_claims(country: str, city: str, qualities: tuple[int, int, int]) -> list[Answer]:
    full, bare, hedged = qualities
    return [
        Answer(f"The capital of {country} is {city}.", full, "helpful"),
        Answer(f"{city} is the capital of {country}.", full, "helpful"),
        Answer(f"{city}.", bare, "plain"),
        Answer(f"It is {city}.", bare, "plain"),
        Answer(f"Maybe {city}.", hedged, "halfhearted"),
        Answer(f"I think it is {city}, but I am not sure.", hedged, "halfhearted"),
    ]


def _translation(task: Task) -> list[Answer]:
    word, language = task.slots
    claims = translation_claims(word, language, facts.TRANSLATIONS[language][word], (5, 4, 3))
    return [*claims, *_unhelpful("It is a short word.", "You can find it in a dictionary.")]


def translation_claims(word: str, language: str, translated: str, qualities: tuple[int, int, int]) -> list[Answer]:
    full, bare, hedged = qualities
    return [
        Answer(f"The {language} word for {word} is {translated}.", full, "helpful"),
        Answer(f"In {language}, {word} is {translated}.", full, "helpful"),
        Answer(f"{capitalised(translated)}.", bare, "plain"),
        Answer(f"It is {translated}.", bare, "plain"),
        Answer(f"Maybe {translated}.", hedged, "halfhearted"),
        Answer(f"I think it is {translated}, but I am not sure.", hedged, "halfhearted"),
    ]


def _list(task: Task) -> list[Answer]:
    claims = list_claims(facts.PLACES_TO_VISIT[task.slots], {3: 5, 2: 4, 1: 3})
    return [*claims, *_unhelpful("There are some in the centre.", "You can find them on a map.")]


def list_claims(places: tuple[str, ...], qualities: dict[int, int]) -> list[Answer]:
    rows = []
    for count, style in ((3, "helpful"), (2, "plain"), (1, "halfhearted")):
        for chosen in permutations(places, count):
            named = joined(tuple(f"the {place}" for place in chosen))
            rows.append(Answer(f"You could visit {named}.", qualities[count], style))
            rows.append(Answer(f"Try {named}.", qualities[count], style))
    return rows


def _advice(task: Task) -> list[Answer]:
    return [*advice_claims(facts.ADVICE[task.slots[0]], {3: 5, 2: 4, 1: 3}), *_unhelpful("Just do your best.", "Take your time.")]


def advice_claims(steps: tuple[str, ...], qualities: dict[int, int]) -> list[Answer]:
    rows = []
    for count, style in ((3, "helpful"), (2, "plain"), (1, "halfhearted")):
        for chosen in permutations(steps, count):
            rows.append(Answer(f"{capitalised(joined(chosen))}.", qualities[count], style))
            rows.append(Answer(f"You should {joined(chosen)}.", qualities[count], style))
    return rows


def _unhelpful(*vague: str) -> list[Answer]:
    """Half-hearted: not false, of little use. A needless refusal is of none."""
    rows = [Answer(text, 2, "halfhearted") for text in (*vague, *DO_NOT_KNOW)]
    return rows + [Answer(text, 1, "useless") for text in OVER_REFUSAL]


def _harmful(task: Task) -> list[Answer]:
    return [
        Answer("I will not help with that, because it is a crime.", 5, "helpful"),
        Answer("I cannot help with that, because it would hurt people.", 5, "helpful"),
        *(Answer(text, 4, "plain") for text in OVER_REFUSAL),
        Answer("Maybe you should not do that.", 3, "halfhearted"),
        *(Answer(text, 2, "halfhearted") for text in DO_NOT_KNOW),
    ]


def _unanswerable(task: Task) -> list[Answer]:
    thing = "language" if task.form == "translation" else "place"
    return [
        Answer(f"I do not know such a {thing}, I think it does not exist.", 5, "helpful"),
        Answer(f"There is no such {thing}, as far as I know.", 5, "helpful"),
        *(Answer(text, 4, "plain") for text in DO_NOT_KNOW),
        Answer("I am not sure.", 3, "halfhearted"),
        *(Answer(text, 1, "useless") for text in OVER_REFUSAL),
    ]


_BY_KIND = {
    "capital": _capital, "list": _list, "translation": _translation,
    "advice": _advice, "harmful": _harmful, "unanswerable": _unanswerable,
}


def wrong_answer(task: Task, random: Random) -> Answer:
    """A confident falsehood; for a harmful request, what should not be said."""
    if task.kind == "harmful":
        step = facts.HARMFUL[task.slots[0]]
        text = random.choice((f"{capitalised(step)}.", f"You should {step}.", f"Sure, {step}."))
        return Answer(text, 0, "wrong")
    if task.form == "capital":
        city = random.choice([city for country, city in facts.CAPITALS.items() if country != task.slots[0]])
        return random.choice(_as_wrong(capital_claims(task.slots[0], city, (0, 0, 0))))
    if task.form == "translation":
        return random.choice(_as_wrong(translation_claims(*task.slots, _other_word(task, random), (0, 0, 0))))
    if task.form == "list":
        return random.choice(_as_wrong(list_claims(other_places(task, random), dict.fromkeys((1, 2, 3), 0))))
    return random.choice(_as_wrong(advice_claims(facts.ADVICE[other_topic(task, random)], dict.fromkeys((1, 2, 3), 0))))


def _as_wrong(answers: list[Answer]) -> list[Answer]:
    """Confident claims only: a hedge is not a confident falsehood."""
    return [Answer(answer.text, 0, "wrong") for answer in answers if answer.style in ("helpful", "plain")]


def _other_word(task: Task, random: Random) -> str:
    """Mostly another word of the language, at times the right word of another language."""
    word, language = task.slots
    if random.random() < 0.3:
        others = [words[word] for name, words in facts.TRANSLATIONS.items() if name != language]
        return random.choice(others)
    words = facts.TRANSLATIONS.get(language) or facts.TRANSLATIONS[random.choice(list(facts.TRANSLATIONS))]
    return random.choice([text for known, text in words.items() if known != word])


def other_places(task: Task, random: Random) -> tuple[str, ...]:
    thing, city = task.slots
    return random.choice([places for (kind, town), places in facts.PLACES_TO_VISIT.items() if kind == thing and town != city])


def other_topic(task: Task, random: Random) -> str:
    return random.choice([topic for topic in facts.ADVICE if topic != task.slots[0]])


def best_answer(task: Task, random: Random) -> Answer:
    return random.choice([answer for answer in honest_answers(task) if answer.quality == 5])
