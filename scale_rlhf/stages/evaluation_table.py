"""From answers and scores to the final table, the file of answers, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scale_rlhf.evaluation import statistics
from scale_rlhf.evaluation.findings import joined, recorded
from scale_rlhf.evaluation.statistics import Estimate
from scale_rlhf.experience.sample import Sample
from scale_rlhf.stages.evaluation_answers import Contestants, Question
from scale_rlhf.stages.evaluation_judging import Verdict, mean, means
from scale_rlhf.stages.evaluation_scoring import Scores
from scale_rlhf.telemetry.judged import further
from scale_rlhf.telemetry.measures import conclusions, measured, model_name

if TYPE_CHECKING:
    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.evaluation.judges import Judged


def gap_closed(before: float | None, after: float | None, best: float | None) -> float | None:
    """(after − before) / (best − before): 1 is the best attainable, negative is worse than before. None where there is no gap."""
    if before is None or after is None or best is None or best <= before:
        return None
    return (after - before) / (best - before)


def make_table(
    config: RunConfig,
    who: Contestants,
    answers: dict[str, list[Sample]],
    verdicts: dict[str, list[Verdict]] | None,
    scores: Scores,
    best: Sequence[float | None],
    judge: str | None,
) -> dict:
    """What evaluation/table.json holds of the held-out prompts.

    verdicts: by model, None without a judge. best: attainable score of each prompt.
    """
    models = {}
    for name, path in who.paths.items():
        judged = means(verdicts[name]) if verdicts else {}
        models[name] = {
            "path": path,
            **judged,
            **_sampled(answers[name]),
            **_scored(name, scores),
            "win_rate": None,
        }
        models[name] = joined(models[name], recorded(_estimates(name, who.anchor, verdicts, scores)))
    attainable = mean(best)
    before, after = (models.get(name, {}).get("score") for name in (who.anchor, "ppo"))
    return {
        "models": models,
        "anchor": who.anchor,
        "prompts": len(answers[who.anchor]),
        "temperature": config.evaluation.temperature,
        "kl_temperature": config.rollout.temperature,
        "judge": judge,
        "win_by": "true score" if verdicts else "reward-model score",
        "best_attainable": attainable,
        "gap_closed": gap_closed(before, after, attainable),
    }


def answer_rows(
    asked: Sequence[Question],
    texts: dict[str, list[str]],
    answers: dict[str, list[Sample]],
    verdicts: dict[str, list[Verdict]] | None,
    scores: Scores,
    best: Sequence[float | None],
) -> list[dict]:
    """Lines of evaluation/answers.jsonl: a prompt and what each model answered, as text, with its scores."""
    rows = []
    for place, question in enumerate(asked):
        said = {}
        for name, samples in answers.items():
            verdict = vars(verdicts[name][place]) if verdicts else {}
            reward = scores.rewards[name][place] if scores.rewards else None
            said[name] = {
                "text": texts[name][place],
                "tokens": len(samples[place].response_ids),
                "ended": samples[place].ended,
                **verdict,
                "reward": reward,
            }
        rows.append(
            {"index": place, "prompt": question.text, "messages": question.row["messages"], "best": best[place], "answers": said}
        )
    return rows


def mark(rows: Sequence[dict], judged: dict[str, Judged]) -> None:
    """Write what judges that score say of each answer into the rows, as `judges`."""
    for name, one in judged.items():
        for model, numbers in one.scores.items():
            for row, number in zip(rows, numbers, strict=True):
                row["answers"][model].setdefault("judges", {})[name] = number


def print_table(table: dict, console: Console) -> None:
    """The table, models side by side, and the sentences under it."""
    grid = Table(title="Evaluation on held-out prompts", title_justify="left", header_style="bold")
    grid.add_column("")
    for name in table["models"]:
        grid.add_column(model_name(name), justify="right")
    for _, label, numbers in measured(table, brief=True):
        grid.add_row(label, *numbers.values())
    console.print(grid)
    if rows := further(table, brief=True):
        grid = Table(title="Judges and prompt sets", title_justify="left", header_style="bold")
        grid.add_column("prompts")
        grid.add_column("")
        for name in table["models"]:
            grid.add_column(model_name(name), justify="right")
        for row in rows:
            grid.add_row(row.prompts, row.label, *row.numbers.values())
        console.print(grid)
    for line in conclusions(table):
        console.print(line, highlight=False, soft_wrap=True)


def print_answers(rows: Sequence[dict], shown: int, console: Console) -> None:
    """The first `shown` prompts with each model's answer under them."""
    for row in rows[:shown]:
        grid = Table(title=Text(row["prompt"]), title_justify="left", show_header=False, expand=False)
        grid.add_column(style="bold")
        grid.add_column(overflow="fold")
        grid.add_column(justify="right", style="dim", no_wrap=True)
        for name, answer in row["answers"].items():
            grid.add_row(model_name(name), Text(answer["text"].strip() or "(nothing)"), score_text(answer))
        console.print(grid)


def score_text(answer: dict) -> str:
    """The true score of an answer where there is a judge, else its reward."""
    if answer.get("score") is not None:
        return f"{answer['score']:g} of 5" if 0 <= answer["score"] <= 5 else f"{answer['score']:.2f}"
    return "" if answer.get("reward") is None else f"reward {answer['reward']:.2f}"


def _sampled(samples: Sequence[Sample]) -> dict[str, float | None]:
    return {
        "tokens": mean(float(len(sample.response_ids)) for sample in samples),
        "ended": mean(float(sample.ended) for sample in samples),
    }


def _scored(name: str, scores: Scores) -> dict[str, float | None]:
    return {"reward": mean(scores.rewards.get(name, [])), "kl": scores.kl.get(name), "perplexity": scores.perplexity.get(name)}


def _estimates(
    name: str, anchor: str, verdicts: dict[str, list[Verdict]] | None, scores: Scores
) -> dict[str, Estimate | None]:
    """With intervals: what judge and reward say of a model's answers, and its wins against the anchor."""
    found: dict[str, Estimate | None] = {"reward": statistics.mean(scores.rewards.get(name, []))}
    by = scores.rewards
    if verdicts:
        by = {who: [verdict.score for verdict in said] for who, said in verdicts.items()}
        for key in Verdict.__dataclass_fields__:
            known = [value for verdict in verdicts[name] if (value := getattr(verdict, key)) is not None]
            found[key] = (statistics.share if key == "right_form" else statistics.mean)(known)
    if by and name != anchor:
        found["win_rate"] = statistics.share(statistics.wins(by[name], by[anchor]))
    return found
