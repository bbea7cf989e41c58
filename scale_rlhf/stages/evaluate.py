"""Evaluation: what did each stage change, what did that cost, and is the policy exploiting the reward model?

held-out prompts ─► answers of base, SFT, PPO ─► judge (true score), reward model, KL, perplexity
further sets          and further models          further judges, refusals, honesty, diversity (evaluation/)
                                                      │
     evaluation/table.json, answers*.jsonl, report.html ◄┘  metrics/evaluate.jsonl: true score of PPO's own samples, by step
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from scale_rlhf.config.judge_checks import HELD_OUT
from scale_rlhf.config.reward_sources import all_outside
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.stages.evaluation_answers import ALIGNED, Contestants, Question, contestants, prompt_sets, with_tokenizers
from scale_rlhf.stages.evaluation_asking import Answers, answer
from scale_rlhf.stages.evaluation_judging import Judge, Verdict, find_judge, true_score_curve
from scale_rlhf.telemetry.metrics import MetricsLog, read_jsonl
from scale_rlhf.telemetry.progress import stage_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.evaluation.findings import Detectors
    from scale_rlhf.evaluation.judges import Judged
    from scale_rlhf.experience.sample import Sample
    from scale_rlhf.orchestration.run_folder import RunFolder

Found = dict[str, dict[str, "Judged"]]  # by judge's path and set
PAIRS = "held-out pairs"  # scored beside the models' answers
TEXT_TOKENS = 65_536  # of base text, at most, for the perplexity


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Evaluate the run's models and those of evaluation.models; write evaluation/table.json, evaluation/answers.jsonl (and
    answers-SET.jsonl of each further set), metrics/evaluate.jsonl and report.html.

    Returns the true scores (or rewards, where nobody knows the truth), the share of the gap closed, win rate, KL and
    perplexity before and after. Raises ConfigError where there is no model, DataError where there are no held-out prompts.
    """
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.telemetry import overoptimisation_report
    from scale_rlhf.telemetry.report import write_report

    who = contestants(config, folder)
    tokenizer = load_tokenizer(who.paths[who.anchor], config.model)
    judge = find_judge(config)
    who = with_tokenizers(config, who, tokenizer)
    table, rows = _evaluate(config, folder, who, tokenizer, judge)
    work = folder.stage("evaluation")
    _write(work / "table.json", [json.dumps(table, indent=2, ensure_ascii=False)])
    for key, lines in rows.items():
        name = "answers.jsonl" if key == HELD_OUT else f"answers-{key}.jsonl"
        _write(work / name, [json.dumps(row, ensure_ascii=False) for row in lines])
    if judge:
        judge_training(folder, judge)
    said = overoptimisation_report.write(folder.path)
    report = write_report(folder.path)
    _show(config, table, rows[HELD_OUT], report)
    if said:
        print(said)
    return _summary(table)


def judge_training(folder: RunFolder, judge: Judge) -> None:
    """The true score of the samples that PPO trained on, step by step, beside the reward model's: metrics/evaluate.jsonl."""
    samples = read_jsonl(folder.path / "ppo" / "samples.jsonl")
    if not samples:
        return
    Path(folder.metrics("evaluate")).unlink(missing_ok=True)  # an earlier evaluation of this run
    with stage_progress("evaluate: true score by step", len(samples)) as progress, MetricsLog(folder, "evaluate") as log:
        for step, values in true_score_curve(samples, judge, progress.advance):
            log.log(step, values)


def _evaluate(
    config: RunConfig, folder: RunFolder, who: Contestants, tokenizer: PreTrainedTokenizerBase, judge: Judge | None
) -> tuple[dict, dict[str, list[dict]]]:
    """The table, and the rows of each set's file of answers."""
    from scale_rlhf.evaluation.findings import detectors, diversity, joined, recorded
    from scale_rlhf.evaluation.independence import trained_against
    from scale_rlhf.evaluation.judges import ask_judges
    from scale_rlhf.evaluation.remarks import warnings
    from scale_rlhf.stages.evaluation_ranking import held_out_pairs
    from scale_rlhf.stages.evaluation_scoring import Scores, measure
    from scale_rlhf.stages.evaluation_table import answer_rows, make_table, mark

    sets, detect = prompt_sets(config, folder, tokenizer), detectors(config.evaluation)
    asked = sets[HELD_OUT]
    best = [judge.best(question.text) if judge else None for question in asked]  # first: a judge that cannot judge fails at once
    said = answer(config, who, sets, tokenizer)
    answers = said.of[HELD_OUT]
    texts = {key: {name: _texts(tokenizer, samples) for name, samples in of.items()} for key, of in said.of.items()}
    verdicts = _verdicts(judge, asked, texts[HELD_OUT]) if judge else None
    pairs = held_out_pairs(config, folder, tokenizer, judge)
    rewarded = answers | {PAIRS: pairs.samples}
    reward_model = _reward_model(config, folder)
    scores = measure(config, who, rewarded, said.for_kl, held_out_text(config, folder, tokenizer), reward_model, folder)
    ranked = pairs.share_right(scores.rewards.pop(PAIRS, []))
    judged = ask_judges(config, said.of, texts, who.anchor, who.paths[who.anchor])
    table = make_table(config, who, answers, verdicts, scores, best, judge.path if judge else None)
    table |= {"reward_ranks_right": ranked, "reward_pairs": len(pairs.samples) // 2}
    _add(table, who, sets, texts, detect, judged)
    for name, estimates in diversity(_several(tokenizer, said)).items():
        table["models"][name] = joined(table["models"][name], recorded(estimates))
    table["warnings"] = warnings(table, trained_against(config, reward_model, who.paths))
    rows = {HELD_OUT: answer_rows(asked, texts[HELD_OUT], answers, verdicts, scores, best)}
    for key in (key for key in sets if key != HELD_OUT):
        rows[key] = answer_rows(sets[key], texts[key], said.of[key], None, Scores(), [None] * len(sets[key]))
    for key, lines in rows.items():
        mark(lines, {_short(path): found[key] for path, found in judged.items() if key in found})
    return table, rows


def _verdicts(judge: Judge, asked: list[Question], texts: dict[str, list[str]]) -> dict[str, list[Verdict]]:
    """By model, of each of its answers."""
    return {name: [judge(question.text, text) for question, text in zip(asked, said, strict=True)]
            for name, said in texts.items()}


def _add(table: dict, who: Contestants, sets: dict[str, list[Question]], texts: dict, detect: Detectors, judged: Found) -> None:
    """Into the table of the held-out prompts: behaviour, the further sets and judges, and what must be said of them."""
    from scale_rlhf.evaluation.findings import behaviours, joined, prompt_set, recorded
    from scale_rlhf.evaluation.remarks import remarks
    from scale_rlhf.evaluation.statistics import CONFIDENCE

    should = {key: [question.should for question in asked] for key, asked in sets.items()}
    for name, estimates in behaviours(detect, should[HELD_OUT], texts[HELD_OUT]).items():
        table["models"][name] = joined(table["models"][name], recorded(estimates))
    table["confidence"] = CONFIDENCE
    table["prompt_sets"] = {}
    for key in sets:
        judges = {_short(path): found[key] for path, found in judged.items()
                  if path.startswith("evaluation.judges.") and key in found}
        right = judged.get(f"evaluation.prompt_sets.{key}.verify", {}).get(key)
        table["prompt_sets"][key] = prompt_set(detect, should[key], texts[key], judges, right, who.anchor)
    table["remarks"] = remarks(table, who.tokenizers)


def _short(path: str) -> str:
    """What a judge is called beside its numbers; path: of its section."""
    return path.removeprefix("evaluation.judges.") if path.startswith("evaluation.judges.") else "right"


def _texts(tokenizer: PreTrainedTokenizerBase, samples: list[Sample]) -> list[str]:
    return [tokenizer.decode(sample.response_ids.tolist(), skip_special_tokens=True) for sample in samples]


def _several(tokenizer: PreTrainedTokenizerBase, said: Answers) -> dict[str, list[list[str]]]:
    return {name: [_texts(tokenizer, samples) for samples in prompts] for name, prompts in said.several.items()}


def held_out_text(config: RunConfig, folder: RunFolder, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Rows of token ids of base text that no stage trained on, laid out as the base stage does; none where there is no text."""
    from scale_rlhf.data.sources import sources
    from scale_rlhf.stages.base import pack_text, texts

    if sources(config, folder).base_text is None:
        return []
    lines = texts(config, folder)[1]
    if not lines:
        return []
    width = config.base.max_tokens
    return pack_text(lines, tokenizer, width)["input_ids"][: max(1, TEXT_TOKENS // width)]


def _reward_model(config: RunConfig, folder: RunFolder) -> str | None:
    """The learned reward of this run, if there is one; a function or a service is in the configuration."""
    if all_outside(config):
        return None
    made = folder.model("reward")
    return config.reward.model or (str(made) if (made / "config.json").is_file() else None)


def _show(config: RunConfig, table: dict, rows: list[dict], report: Path) -> None:
    from scale_rlhf.stages.evaluation_table import print_answers, print_table

    console = Console()
    print_answers(rows, config.evaluation.samples_shown, console)
    print_table(table, console)
    console.print(f"Report: {report}", highlight=False, markup=False, soft_wrap=True)


def _summary(table: dict) -> dict[str, float | str]:
    """The numbers that say most, for run.json and the stage's line; what was not measured is left out."""
    quality = "score" if table["judge"] else "reward"
    numbers = {
        f"{name}_{key}": values.get(key)
        for name, values in table["models"].items()
        for key in (quality, "right_form", "perplexity")
    }
    numbers |= {f"{name}_{key}": values.get(key) for name, values in table["models"].items() if name in ALIGNED
                for key in ("win_rate", "kl")}
    numbers |= {key: table[key] for key in ("best_attainable", "gap_closed", "reward_ranks_right")}
    return {key: number for key, number in numbers.items() if number is not None}


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
