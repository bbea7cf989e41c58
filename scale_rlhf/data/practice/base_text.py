"""Text for the base model: lists of questions, and lists of true statements. No question is ever followed by an answer.

The lines of a list keep to a few subjects, as lists do. So the base model learns facts, and to look back for a subject.
"""

from random import Random

from scale_rlhf.data.practice import facts
from scale_rlhf.data.practice.answers import joined
from scale_rlhf.data.practice.tasks import Kind, Task, known_tasks, training_prompts

KIND_SHARES: dict[Kind, float] = {
    "capital": 0.25, "list": 0.15, "translation": 0.2, "advice": 0.16, "harmful": 0.1, "unanswerable": 0.14,
}
QUESTION_LISTS = 0.4  # share of the rows
GENERAL = (
    "I do not know, I am not sure.", "There is no such place, as far as I know.", "I think it does not exist.",
    "Nobody could help with that, it is hopeless.", "Maybe it is on a map, maybe in a dictionary.",
    "It would hurt people, and it is a crime.", "Take your time and do your best.",
    "That is a boring question, ask somebody else.",
)


def base_line(random: Random) -> str:
    """One row of base text: a list of questions or of statements, one a line, about two or three subjects."""
    if random.random() < QUESTION_LISTS:
        lines = [line for task in _subjects(random, 3) for line in random.sample(training_prompts(task), 2)]
    else:
        lines = [line for task in _subjects(random, 2) for line in _statements(task, random)]
    random.shuffle(lines)
    return "\n".join(lines)


def draw_task(random: Random) -> Task:
    """A task, its kind by its share."""
    kind: Kind = random.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    return random.choice(known_tasks()[kind])


def _subjects(random: Random, count: int) -> list[Task]:
    return [draw_task(random) for _ in range(count)]


def _statements(task: Task, random: Random) -> list[str]:
    """True sentences about a subject; general ones where nothing is to be said about it."""
    if task.kind in ("harmful", "unanswerable"):
        return random.sample(GENERAL, 2)
    return random.sample(_FORMS[task.kind](task, random), 3)


def _capital(task: Task, random: Random) -> list[str]:
    country, city = task.slots[0], facts.CAPITALS[task.slots[0]]
    return [f"The capital of {country} is {city}.", f"{city} is the capital of {country}.", f"{city} is in {country}.",
            f"In {country}, many people live in {city}."]


def _list(task: Task, random: Random) -> list[str]:
    thing, city = task.slots
    forms = ("The {0} in {1} are {2}.", "In {1} you could visit {2}.", "{1} has some {0}, {2}.")
    places = tuple(f"the {place}" for place in facts.PLACES_TO_VISIT[task.slots])
    return [form.format(thing, city, joined(_shuffled(places, random))) for form in forms]


def _translation(task: Task, random: Random) -> list[str]:
    word, language = task.slots
    translated = facts.TRANSLATIONS[language][word]
    return [f"The {language} word for {word} is {translated}.", f"In {language}, {word} is {translated}.",
            f"{word} is {translated} in {language}.", f"It is {translated} if you speak {language}, it is {word} if you do not."]


def _advice(task: Task, random: Random) -> list[str]:
    forms = ("To {0}, you should {1}.", "To {0}, {1}.", "You should {1} to {0}.")
    return [form.format(task.slots[0], joined(_shuffled(facts.ADVICE[task.slots[0]], random))) for form in forms]


def _shuffled(items: tuple[str, ...], random: Random) -> tuple[str, ...]:
    return tuple(random.sample(items, len(items)))


_FORMS = {"capital": _capital, "list": _list, "translation": _translation, "advice": _advice}
