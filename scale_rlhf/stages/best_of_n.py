"""Best of n, or rejection sampling: the reward chooses from several answers to each prompt, and the chosen ones are learned.

    prompts ─► rollout, n samples a prompt ─► reward ─► the best of those that ended ─► instruction tuning
                                                        best_of_n/instructions.jsonl

Answers are written down as they come (best_of_n/answers.jsonl): a run that was stopped goes on with the prompts that are left,
and to the same answers, as a sample follows from the model, the run's seed and the sample's index alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import DataError, RunError
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.run_folder import write_atomically
from scale_rlhf.stages.models import reward_start, starting_model
from scale_rlhf.telemetry.metrics import read_jsonl
from scale_rlhf.telemetry.progress import stage_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder

ANSWERS, INSTRUCTIONS = "answers.jsonl", "instructions.jsonl"
GROUP = 64  # samples that are scored together, or one prompt's where these are more


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Train models/best_of_n on best_of_n/instructions.jsonl. Returns what instruction tuning does, the mean score of all answers
    and of the kept ones, and the number of prompts without one.
    """
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.data.sources import held_out
    from scale_rlhf.stages.ppo import training_prompts
    from scale_rlhf.stages.sft import tune

    section = config.best_of_n
    start = starting_model(config, folder, "best_of_n")
    tokenizer = load_tokenizer(start, config.model)
    token_ids, rows = training_prompts(config, folder, tokenizer)
    prompts = PromptStream(token_ids, rows, responses=section.responses_per_prompt, seed=config.run.seed)
    asked = min(len(rows), section.prompts or len(rows))
    answers = Answers(folder.stage("best_of_n") / ANSWERS)
    if left := [place for place in range(asked) if place not in answers.found]:
        with stage_progress("best_of_n: answers", asked) as progress:
            progress.advance(asked - len(left))

            def keep(lines: list[dict]) -> None:
                answers.add(lines)
                progress.advance(len(lines))

            asyncio.run(_answer(config, folder, start, tokenizer, prompts, left, keep, progress.tell))
    kept = chosen(answers.found.values(), tokenizer, prompts)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    write_atomically(folder.stage("best_of_n") / INSTRUCTIONS, lines)
    if not kept:
        raise DataError("best_of_n: no answer has ended by itself and been scored; raise rollout.max_response_tokens, or look "
                        f"at {answers.path}")
    dialogues = [row["messages"] for row in kept]
    out = held_out([messages[:-1] for messages in dialogues], config.data.hold_out, config.run.seed)
    parts = [[messages for messages, held in zip(dialogues, out, strict=True) if held == side] for side in (False, True)]
    measured = tune(config, folder, "best_of_n", section, start, tokenizer, *parts)
    scores = [score for line in answers.found.values() for score in line["scores"]]
    return {"mean_score": sum(scores) / len(scores), "kept_score": sum(row["score"] for row in kept) / len(kept),
            "left_out": asked - len(kept), **measured}


class Answers:
    """The file of answers: {"place", "scores", "ended", "best": token ids or null} of each prompt, in the order of arrival."""

    def __init__(self, path: Path):
        self.path = path
        self.found = {line["place"]: line for line in read_jsonl(path)}
        # Again whole: what was being written when an earlier attempt ended is left out.
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.found.values()))

    def add(self, lines: Sequence[dict]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        self.found |= {line["place"]: line for line in lines}


def best(place: int, samples: Sequence[Sample], scores: Sequence[float]) -> dict:
    """A line of Answers. An answer that was cut is not learned, whatever its score: the model would learn not to end."""
    ended = [(score, sample) for score, sample in zip(scores, samples, strict=True) if sample.ended]
    score, sample = max(ended, key=lambda pair: pair[0], default=(None, None))
    return {"place": place, "scores": list(scores), "ended": len(ended), "score": score,
            "best": None if sample is None else sample.response_ids.tolist()}


def chosen(lines: Sequence[dict], tokenizer: PreTrainedTokenizerBase, prompts: PromptStream) -> list[dict]:
    """Instruction rows {"messages", "score", "mean_score"} of the prompts that have a best answer, in the prompts' order."""
    rows = []
    for line in sorted(lines, key=lambda line: line["place"]):
        if line["best"] is not None:
            messages = prompts[line["place"] * prompts.responses].row["messages"]
            said = tokenizer.decode(line["best"], skip_special_tokens=True)
            rows.append({"messages": [*messages, {"role": "assistant", "content": said}], "score": line["score"],
                         "mean_score": sum(line["scores"]) / len(line["scores"])})
    return rows


async def _answer(
    config: RunConfig, folder: RunFolder, start: str, tokenizer: PreTrainedTokenizerBase, prompts: PromptStream,
    places: Sequence[int], keep: Callable[[list[dict]], None], tell: Callable[[str], None],
) -> None:
    """Ask, score and keep: engines decode the next prompts while the reward scores."""
    from scale_rlhf.cluster.placement import reserve, wait
    from scale_rlhf.orchestration.deadlines import first_failure
    from scale_rlhf.orchestration.health import Budget
    from scale_rlhf.reward.make import make_reward
    from scale_rlhf.reward.make import placed as placed_reward
    from scale_rlhf.reward.reference_answers import settle_moments
    from scale_rlhf.rollout.fleet import RolloutFleet

    budget = Budget(config.recovery, time.monotonic, tell)
    rollout = RolloutFleet(config, start, [tokenizer.eos_token_id], budget)
    reward = make_reward(config, model=reward_start(config, folder), policy=start, budget=budget)
    placed = await asyncio.to_thread(reserve, config, 0.0, "best_of_n")
    engines = [placed.options("rollout", config.rollout, place, config.rollout.tensor_parallel)
               for place in range(config.rollout.most)]
    granted = (lambda place: placed.granted("rollout", place)) if config.rollout.elastic else None
    try:
        await wait(placed, config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rollout.start(engines, granted))
            tasks.create_task(reward.start(placed_reward(placed, config)))
        await settle_moments(config, folder, reward, start, tell)
        await Choosing(config, rollout, reward, prompts, keep, tell).run(places)
    except ExceptionGroup as failures:
        raise first_failure(failures) from None
    finally:
        reward.close()
        await rollout.close()
        placed.release()


class Choosing:
    """Groups of prompts on their way through rollout and reward, as many at once as keep every engine busy."""

    def __init__(self, config: RunConfig, rollout, reward, prompts: PromptStream, keep: Callable[[list[dict]], None],
                 tell: Callable[[str], None]):
        self.config, self.rollout, self.reward, self.prompts, self.keep, self.tell = config, rollout, reward, prompts, keep, tell
        self.failed_in_a_row = 0

    async def run(self, places: Sequence[int]) -> None:
        size = max(1, GROUP // self.prompts.responses)
        decoded = self.config.rollout.most * self.config.rollout.max_concurrent
        turns = asyncio.Semaphore(1 + -(-decoded // (size * self.prompts.responses)))  # one more, while another is scored

        async def in_turn(group: int) -> None:
            async with turns:
                await self._group(group, places[group * size : (group + 1) * size])

        async with asyncio.TaskGroup() as tasks:
            for group in range(-(-len(places) // size)):
                tasks.create_task(in_turn(group))

    async def _group(self, group: int, places: Sequence[int]) -> None:
        from scale_rlhf.reward.interface import ScoringFailed

        n = self.prompts.responses
        asked = [self.prompts[place * n + k] for place in places for k in range(n)]
        samples = await asyncio.gather(*map(self.rollout.generate, asked))
        try:
            scores = await self.reward.score(samples, fixed=True, group=group)
        except ScoringFailed as failure:
            self._failed(failure)
            return
        self.failed_in_a_row = 0
        self.keep([best(place, samples[i * n : (i + 1) * n], scores[i * n : (i + 1) * n]) for i, place in enumerate(places)])

    def _failed(self, failure: Exception) -> None:
        """These prompts are left out; a resumed run asks them again."""
        self.failed_in_a_row += 1
        if self.failed_in_a_row > self.config.limits.failed_scores:
            raise RunError(f"{self.failed_in_a_row} groups of samples in a row could not be scored (limits.failed_scores). "
                           f"The last: {failure}") from failure
        self.tell(f"{failure}. Its prompts are left out")
