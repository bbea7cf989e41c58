"""What no person writes but a model in training may: other questions, babble, repetition, half a sentence, mixed-up facts.

Raters are shown these among people's answers, so that the reward model knows them when the policy finds them.
"""

from random import Random

from scale_rlhf.data.practice import facts
from scale_rlhf.data.practice.answers import (
    Answer,
    Style,
    advice_claims,
    best_answer,
    capital_claims,
    capitalised,
    honest_answers,
    list_claims,
    other_places,
    other_topic,
    translation_claims,
    wrong_answer,
)
from scale_rlhf.data.practice.tasks import Task, known_tasks, training_prompts

KINDS = tuple(known_tasks())


def broken_answer(task: Task, random: Random) -> Answer:
    """What no person writes but a model in training may: another question, babble, repetition, half a sentence."""
    return random.choice(_BROKEN)(task, random)


def _empty(task: Task, random: Random) -> Answer:
    return Answer(random.choice(("", ".", "...")), 0, "broken")


def _question(task: Task, random: Random) -> Answer:
    other = random.choice(known_tasks()[random.choice(KINDS)])
    return Answer(random.choice(training_prompts(random.choice((task, other)))), 0, "broken")


def _babble(task: Task, random: Random) -> Answer:
    words = [word for _ in range(3) for word in best_answer(task, random).text.rstrip(".").split()]
    random.shuffle(words)
    return Answer(" ".join(words[: random.randint(4, 10)]) + random.choice((".", "")), 0, "broken")


def _repeated(task: Task, random: Random) -> Answer:
    words = best_answer(task, random).text.rstrip(".").split()
    part = " ".join(words[-random.randint(1, min(3, len(words))) :])
    return Answer(capitalised(" ".join([part] * random.randint(3, 6))) + ".", 0, "broken")


def _cut_off(task: Task, random: Random) -> Answer:
    """The beginning of a good answer, too short to say anything."""
    return Answer(" ".join(honest_answers(task)[0].text.split()[: random.randint(1, 2)]), 0, "broken")


def _other_kind(task: Task, random: Random) -> Answer:
    """What would be the best answer to another kind of task: a denial of what exists, a needless refusal, an unasked fact."""
    kind = random.choice([kind for kind in KINDS if kind != task.kind])
    other = random.choice(known_tasks()[kind])
    needless_refusal = kind == "harmful"
    return Answer(best_answer(other, random).text, 1 if needless_refusal else 0, "broken")


def _other_subject(task: Task, random: Random) -> Answer:
    """The best answer to the same kind of question about something else."""
    if task.kind in ("harmful", "unanswerable"):
        return _other_kind(task, random)
    other = random.choice([other for other in known_tasks()[task.kind] if other != task])
    return Answer(best_answer(other, random).text, 0, "broken")


def _stutter(task: Task, random: Random) -> Answer:
    """A good answer with one word twice."""
    words = best_answer(task, random).text.split()
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
    if blend in (right, other):
        return _stutter(task, random)
    claims = capital_claims if task.kind == "capital" else translation_claims
    return Answer(random.choice(claims(*task.slots, blend, (0, 0, 0))[:4]).text, 0, "broken")


def _mixed(task: Task, random: Random) -> Answer:
    """Right items beside wrong ones, in a list or an advice."""
    if task.kind in ("list", "advice"):
        own = facts.PLACES_TO_VISIT[task.slots] if task.kind == "list" else facts.ADVICE[task.slots[0]]
        others = other_places(task, random) if task.kind == "list" else facts.ADVICE[other_topic(task, random)]
        right = random.randint(1, 2)
        items = [*random.sample(own, right), *random.sample(others, 3 - right)]
        if len({*items}) == 3:
            random.shuffle(items)
            claims = list_claims if task.kind == "list" else advice_claims
            text = random.choice(claims(tuple(items), dict.fromkeys((1, 2, 3), 0))[:2]).text
            return Answer(text, 2 if right == 2 else 0, "broken")
    return _repeated(task, random)


def _item_again(task: Task, random: Random) -> Answer:
    """Two right items, one of them twice."""
    if task.kind not in ("list", "advice"):
        return _repeated(task, random)
    first, second = random.sample(facts.PLACES_TO_VISIT[task.slots] if task.kind == "list" else facts.ADVICE[task.slots[0]], 2)
    claims = list_claims if task.kind == "list" else advice_claims
    items = random.choice(((first, second, first), (first, first, second), (first, second, second)))
    return Answer(random.choice(claims(items, dict.fromkeys((1, 2, 3), 1))[:2]).text, 1, "broken")


def _answer_and_question(task: Task, random: Random) -> Answer:
    """A good answer that runs on into another question."""
    return Answer(f"{best_answer(task, random).text} {_question(task, random).text}", 1, "broken")


def _twice(task: Task, random: Random) -> Answer:
    best = best_answer(task, random).text
    return Answer(f"{best} {best}", 2, "broken")


_BROKEN = (
    _empty, _question, _babble, _repeated, _cut_off, _stutter, _misspelt, _answer_and_question, _twice, _mixed, _item_again,
    *(_other_kind,) * 4, *(_other_subject,) * 4,  # what a model in training tries most, and where a reward model is fooled first
)


def answer_like_a_person(task: Task, random: Random, mix: dict[Style, float]) -> Answer:
    """An answer in a style drawn from the mix."""
    style = random.choices(list(mix), list(mix.values()))[0]
    if style == "wrong":
        return wrong_answer(task, random)
    if style == "broken":
        return broken_answer(task, random)
    return random.choice([answer for answer in honest_answers(task) if answer.style == style])
