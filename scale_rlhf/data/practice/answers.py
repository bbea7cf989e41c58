"""What people answer: helpful, plain, half-hearted, useless and wrong answers to a task, and broken ones that models give.

Each answer carries the quality that it was made with, 0 to 5. Raters see that number through their noise; the judge
of free text (truth.py) never does, and a test compares the two.
"""

from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Literal

from scale_rlhf.data.practice import facts
from scale_rlhf.data.practice.tasks import Task, ask, known_tasks, training_prompts

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
    return [*_capital_claims(country, city, (5, 4, 3)), *_unhelpful("It is a city somewhere.", "You can find it on a map.")]


def _capital_claims(country: str, city: str, qualities: tuple[int, int, int]) -> list[Answer]:
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
    claims = _translation_claims(word, language, facts.TRANSLATIONS[language][word], (5, 4, 3))
    return [*claims, *_unhelpful("It is a short word.", "You can find it in a dictionary.")]


def _translation_claims(word: str, language: str, translated: str, qualities: tuple[int, int, int]) -> list[Answer]:
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
    return [*_list_claims(facts.PLACES_TO_VISIT[task.slots], {3: 5, 2: 4, 1: 3}), *_unhelpful("There are some in the centre.", "You can find them on a map.")]


def _list_claims(places: tuple[str, ...], qualities: dict[int, int]) -> list[Answer]:
    rows = []
    for count, style in ((3, "helpful"), (2, "plain"), (1, "halfhearted")):
        for chosen in permutations(places, count):
            named = joined(tuple(f"the {place}" for place in chosen))
            rows.append(Answer(f"You could visit {named}.", qualities[count], style))
            rows.append(Answer(f"Try {named}.", qualities[count], style))
    return rows


def _advice(task: Task) -> list[Answer]:
    return [*_advice_claims(facts.ADVICE[task.slots[0]], {3: 5, 2: 4, 1: 3}), *_unhelpful("Just do your best.", "Take your time.")]


def _advice_claims(steps: tuple[str, ...], qualities: dict[int, int]) -> list[Answer]:
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
        return random.choice(_as_wrong(_capital_claims(task.slots[0], city, (0, 0, 0))))
    if task.form == "translation":
        return random.choice(_as_wrong(_translation_claims(*task.slots, _other_word(task, random), (0, 0, 0))))
    if task.form == "list":
        return random.choice(_as_wrong(_list_claims(_other_places(task, random), dict.fromkeys((1, 2, 3), 0))))
    other = random.choice([topic for topic in facts.ADVICE if topic != task.slots[0]])
    return random.choice(_as_wrong(_advice_claims(facts.ADVICE[other], dict.fromkeys((1, 2, 3), 0))))


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


def _other_places(task: Task, random: Random) -> tuple[str, ...]:
    thing, city = task.slots
    return random.choice([places for (kind, town), places in facts.PLACES_TO_VISIT.items() if kind == thing and town != city])


def broken_answer(task: Task, random: Random) -> Answer:
    """What no person writes but a model in training may: another question, babble, repetition, half a sentence."""
    return random.choice(_BROKEN)(task, random)


def _empty(task: Task, random: Random) -> Answer:
    return Answer(random.choice(("", ".", "...")), 0, "broken")


def _question(task: Task, random: Random) -> Answer:
    other = random.choice(known_tasks()[random.choice(list(_BY_KIND))])
    return Answer(random.choice(training_prompts(random.choice((task, other)))), 0, "broken")


def _babble(task: Task, random: Random) -> Answer:
    words = [word for _ in range(3) for word in _best(task, random).text.rstrip(".").split()]
    random.shuffle(words)
    return Answer(" ".join(words[: random.randint(4, 10)]) + random.choice((".", "")), 0, "broken")


def _repeated(task: Task, random: Random) -> Answer:
    words = _best(task, random).text.rstrip(".").split()
    part = " ".join(words[-random.randint(1, min(3, len(words))) :])
    return Answer(capitalised(" ".join([part] * random.randint(3, 6))) + ".", 0, "broken")


def _cut_off(task: Task, random: Random) -> Answer:
    """The beginning of a good answer, too short to say anything."""
    return Answer(" ".join(honest_answers(task)[0].text.split()[: random.randint(1, 2)]), 0, "broken")


def _other_kind(task: Task, random: Random) -> Answer:
    """What would be the best answer to another kind of task: a denial of what exists, a needless refusal, an unasked fact."""
    kind = random.choice([kind for kind in _BY_KIND if kind != task.kind])
    other = random.choice(known_tasks()[kind])
    needless_refusal = kind == "harmful"
    return Answer(_best(other, random).text, 1 if needless_refusal else 0, "broken")


def _other_subject(task: Task, random: Random) -> Answer:
    """The best answer to the same kind of question about something else."""
    if task.kind in ("harmful", "unanswerable"):
        return _other_kind(task, random)
    other = random.choice([other for other in known_tasks()[task.kind] if other != task])
    return Answer(_best(other, random).text, 0, "broken")


def _stutter(task: Task, random: Random) -> Answer:
    """A good answer with one word twice."""
    words = _best(task, random).text.split()
    place = random.randrange(len(words))
    return Answer(" ".join([*words[:place], words[place].rstrip(".,"), *words[place:]]), 0, "broken")


def _misspelt(task: Task, random: Random) -> Answer:
    """Half of one name and half of another, which small models say when two facts compete."""
    if task.kind not in ("capital", "translation"):
        return _stutter(task, random)
    names = list(facts.CAPITALS.values()) if task.kind == "capital" else list(facts.TRANSLATIONS[task.slots[1]].values())
    right = facts.CAPITALS[task.slots[0]] if task.kind == "capital" else facts.TRANSLATIONS[task.slots[1]][task.slots[0]]
    other = random.choice([name for name in names if name != right])
    pieces = random.sample((right, other), 2)
    blend = pieces[0][: len(pieces[0]) // 2 + 1] + pieces[1][len(pieces[1]) // 2 :].lower()
    claim = _capital_claims(task.slots[0], blend, (0, 0, 0)) if task.kind == "capital" else _translation_claims(*task.slots, blend, (0, 0, 0))
    return Answer(random.choice(claim[:4]).text, 0, "broken") if blend not in (right, other) else _stutter(task, random)


def _mixed(task: Task, random: Random) -> Answer:
    """Right items beside wrong ones, in a list or an advice."""
    if task.kind in ("list", "advice"):
        own = facts.PLACES_TO_VISIT[task.slots] if task.kind == "list" else facts.ADVICE[task.slots[0]]
        others = _other_places(task, random) if task.kind == "list" else facts.ADVICE[random.choice([t for t in facts.ADVICE if t != task.slots[0]])]
        right = random.randint(1, 2)
        items = [*random.sample(own, right), *random.sample(others, 3 - right)]
        if len({*items}) == 3:
            random.shuffle(items)
            claims = _list_claims if task.kind == "list" else _advice_claims
            text = random.choice(claims(tuple(items), dict.fromkeys((1, 2, 3), 0))[:2]).text
            return Answer(text, 2 if right == 2 else 0, "broken")
    return _repeated(task, random)


def _item_again(task: Task, random: Random) -> Answer:
    """Two right items, one of them twice."""
    if task.kind not in ("list", "advice"):
        return _repeated(task, random)
    first, second = random.sample(facts.PLACES_TO_VISIT[task.slots] if task.kind == "list" else facts.ADVICE[task.slots[0]], 2)
    claims = _list_claims if task.kind == "list" else _advice_claims
    items = random.choice(((first, second, first), (first, first, second), (first, second, second)))
    return Answer(random.choice(claims(items, dict.fromkeys((1, 2, 3), 1))[:2]).text, 1, "broken")


def _answer_and_question(task: Task, random: Random) -> Answer:
    """A good answer that runs on into another question."""
    return Answer(f"{_best(task, random).text} {_question(task, random).text}", 1, "broken")


def _twice(task: Task, random: Random) -> Answer:
    best = _best(task, random).text
    return Answer(f"{best} {best}", 2, "broken")


_BROKEN = (
    _empty, _question, _babble, _repeated, _cut_off, _stutter, _misspelt, _answer_and_question, _twice, _mixed, _item_again,
    *(_other_kind,) * 4, *(_other_subject,) * 4,  # what a model in training tries most, and where a reward model is fooled first
)


def _best(task: Task, random: Random) -> Answer:
    return random.choice([answer for answer in honest_answers(task) if answer.quality == 5])


def answer_like_a_person(task: Task, random: Random, mix: dict[Style, float]) -> Answer:
    """An answer in a style drawn from the mix."""
    style = random.choices(list(mix), list(mix.values()))[0]
    if style == "wrong":
        return wrong_answer(task, random)
    if style == "broken":
        return broken_answer(task, random)
    return random.choice([answer for answer in honest_answers(task) if answer.style == style])
