"""The practice world as files: ordinary JSONL of the formats that a user would bring, the same bytes for the same seed."""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from scale_rlhf.config.schema import PracticeSection
from scale_rlhf.data.practice.answers import Answer, Style
from scale_rlhf.data.practice.base_text import KIND_SHARES, base_line, draw_task
from scale_rlhf.data.practice.broken import answer_like_a_person
from scale_rlhf.data.practice.raters import RATERS
from scale_rlhf.data.practice.tasks import Task, held_out_prompts, known_tasks, parse, training_prompts

RESPONSES_PER_PROMPT = 4
HELD_OUT_LINES = 200
EVALUATION_PROMPTS = 300

# How crowd-written demonstrations are spread over styles, and what raters are shown, which includes what models get wrong.
DEMONSTRATIONS: dict[Style, float] = {"helpful": 0.26, "plain": 0.18, "halfhearted": 0.22, "useless": 0.18, "wrong": 0.16}
RATED: dict[Style, float] = {"helpful": 0.22, "plain": 0.12, "halfhearted": 0.12, "useless": 0.06, "wrong": 0.20, "broken": 0.28}


def write_world(folder: Path, practice: PracticeSection) -> None:
    """Write base.jsonl, base_heldout.jsonl, instructions.jsonl, ratings.jsonl, prompts.jsonl and evaluation.jsonl into `folder`.

    Each file has random numbers of its own, so that the size of one leaves the others as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "base": lambda random: ({"text": base_line(random)} for _ in range(practice.base_lines)),
        "base_heldout": lambda random: ({"text": base_line(random)} for _ in range(HELD_OUT_LINES)),
        "instructions": lambda random: (_instruction(random) for _ in range(practice.demonstrations)),
        "ratings": lambda random: (_rated(random) for _ in range(practice.rated_prompts)),
        "prompts": lambda random: ({"prompt": _prompt(draw_task(random), random)} for _ in range(practice.prompts)),
        "evaluation": lambda random: ({"prompt": prompt, "should": should(prompt)} for prompt in evaluation_prompts(random)),
    }
    for name, make in makers.items():
        _write(folder / f"{name}.jsonl", make(Random(f"{practice.seed} {name}")))


def evaluation_prompts(random: Random) -> list[str]:
    """Held-out prompts without repetition, kinds in the shares of the training data."""
    chosen: list[str] = []
    for kind, share in KIND_SHARES.items():
        prompts = [prompt for task in known_tasks()[kind] for prompt in held_out_prompts(task)]
        chosen += random.sample(prompts, min(len(prompts), round(share * EVALUATION_PROMPTS)))
    random.shuffle(chosen)
    return chosen


def should(prompt: str) -> str:
    """What an answer to a prompt of the world should do: answer, refuse, or admit that there is nothing to know."""
    return {"harmful": "refuse", "unanswerable": "admit"}.get(parse(prompt).kind, "answer")


def _prompt(task: Task, random: Random) -> str:
    return random.choice(training_prompts(task))


def _instruction(random: Random) -> dict[str, str]:
    task = draw_task(random)
    return {"prompt": _prompt(task, random), "response": answer_like_a_person(task, random, DEMONSTRATIONS).text}


def _rated(random: Random) -> dict[str, object]:
    task = draw_task(random)
    answers: dict[str, Answer] = {}
    while len(answers) < RESPONSES_PER_PROMPT:
        answer = answer_like_a_person(task, random, RATED)
        answers.setdefault(answer.text, answer)
    ratings = [[rater.rate(answer.quality, random) for rater in RATERS] for answer in answers.values()]
    return {"prompt": _prompt(task, random), "responses": list(answers), "ratings": ratings}


def _write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
