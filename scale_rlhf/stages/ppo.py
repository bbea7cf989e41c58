"""PPO: five roles, each its own actors, one loop. This file composes them; `orchestration/loop.py` is the algorithm's course."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.prompts import prompt_stream
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.loop import Loop, Step
from scale_rlhf.orchestration.roles import Roles, StartingModels
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.orchestration.step_metrics import slowest


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Align the policy. Leaves models/ppo, metrics/ppo.jsonl and ppo/samples.jsonl in the run's folder."""
    from scale_rlhf.data.chat import load_tokenizer

    models = starting_models(config, folder)
    tokenizer = load_tokenizer(models.policy, config.model)
    token_ids, rows = training_prompts(config, folder, tokenizer)
    started = time.monotonic()
    with ExitStack() as stack:
        record = stack.enter_context(Record(config, folder, tokenizer))
        asyncio.run(train(config, models, [tokenizer.eos_token_id], token_ids, rows, record, folder))
    return record.summary() | {"seconds": time.monotonic() - started}


async def train(
    config: RunConfig, models: StartingModels, end_token_ids: Sequence[int], token_ids: Sequence[Sequence[int]],
    rows: Sequence[dict], record: "Record", folder: RunFolder | None,
) -> None:
    """Start the roles, run the loop, save the policy and the value model, end the roles, whatever happens."""
    roles = Roles(config, models, end_token_ids)
    try:
        await roles.start(probe=empty_answers(token_ids, rows, end_token_ids))
        stream = prompt_stream(token_ids, rows, responses=config.ppo.responses_per_prompt, seed=config.run.seed)

        async def after(step: Step) -> None:
            record.step(step)
            if folder is not None and config.ppo.save_every and step.version % config.ppo.save_every == 0:
                await roles.policy.save(str(folder.stage("ppo") / "checkpoints" / f"step-{step.version:06d}"))

        loop = Loop(config, roles, stream, after)
        loop.parity.probe_with([np.asarray(ids, dtype=np.int32) for ids in token_ids])
        await loop.run()
        if folder is not None:
            await roles.policy.save(str(folder.model("ppo")))
            if roles.value is not None:
                await roles.value.save(str(folder.model("value")))
    finally:
        await roles.close()


def empty_answers(token_ids: Sequence[Sequence[int]], rows: Sequence[dict], end_token_ids: Sequence[int]) -> list[Sample]:
    """Two prompts that are answered by the end token alone: what a reward is tried on before the run starts."""
    response = np.asarray(end_token_ids[:1], dtype=np.int32)
    none = np.zeros(len(response), dtype=np.float32)
    prompts = (Prompt(-1 - i, -1, np.asarray(ids, dtype=np.int32), row)
               for i, (ids, row) in enumerate(zip(token_ids[:2], rows, strict=False)))
    return [Sample(prompt, response, none, none.astype(np.int32), ended=True) for prompt in prompts] if len(response) else []


def starting_models(config: RunConfig, folder: RunFolder) -> StartingModels:
    """Where each role starts from. Raises ConfigError: no such model, or a reference with another vocabulary."""
    from scale_rlhf.stages.models import check_same_vocabulary, starting_model

    policy = starting_model(config, folder, "policy")
    reference = starting_model(config, folder, "reference")
    if reference != policy:
        check_same_vocabulary(policy, reference)
    outside = config.reward.function or config.reward.url
    value = starting_model(config, folder, "value") if config.ppo.advantages == "gae" else None
    return StartingModels(policy, reference, value,
                          None if outside else starting_model(config, folder, "reward"))


def training_prompts(config: RunConfig, folder: RunFolder, tokenizer) -> tuple[list[list[int]], list[dict]]:
    """Prompts as token ids, chat template applied, with their rows; those over the limit as data.long_prompts says."""
    from scale_rlhf.data.chat import prompt_ids
    from scale_rlhf.data.limit import within_limit
    from scale_rlhf.data.sources import sources

    rows = sources(config, folder).training_prompts()
    rows, left_out = within_limit(
        rows, lambda messages: len(prompt_ids(tokenizer, messages)), config.data.max_prompt_tokens, config.data.long_prompts)
    if left_out:
        print(f"ppo: {left_out} prompts over data.max_prompt_tokens are left out, {len(rows)} remain")
    return [list(prompt_ids(tokenizer, row["messages"])) for row in rows], rows


class Record:
    """What a person sees of a run, and what stays of it: a line a step, metrics, every sample."""

    def __init__(self, config: RunConfig, folder: RunFolder, tokenizer):
        self.config, self.folder, self.tokenizer = config, folder, tokenizer
        self.history: list[dict[str, float]] = []

    def __enter__(self) -> "Record":
        from scale_rlhf.telemetry.metrics import MetricsLog
        from scale_rlhf.telemetry.progress import stage_progress
        from scale_rlhf.telemetry.timeline import Timeline

        self.stack = ExitStack()
        self.log = MetricsLog(self.folder, "ppo")
        self.stack.callback(self.log.close)
        self.timeline = Timeline(self.folder.timeline)
        self.stack.callback(self.timeline.close)
        self.samples = self.stack.enter_context(open(self.folder.stage("ppo") / "samples.jsonl", "w"))
        self.progress = self.stack.enter_context(stage_progress("ppo", self.config.ppo.steps))
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def step(self, step: Step) -> None:
        """One line with what matters; details go to files."""
        numbers = step.metrics
        self.history.append(numbers)
        self.log.log(step.version, numbers)
        self.timeline.add(step.lanes)
        for one in step.batch:
            line = self._line(step.version, one.sample, one.score, one.reference_logprobs)
            self.samples.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.samples.flush()
        self.progress.advance(1, f"score {numbers['reward/score_mean']:+.3f}  KL {numbers['kl/reference_mean']:.2f}  "
                                 f"{numbers['response/tokens_mean']:.0f} tokens  {numbers['time/step']:.1f} s  "
                                 f"slowest: {slowest(numbers)}")

    def summary(self) -> dict[str, float]:
        first, last = self.history[0], self.history[-1]
        return {
            "score_first": first["reward/score_mean"], "score_last": last["reward/score_mean"], "kl": last["kl/reference_mean"],
            "steps": len(self.history), "seconds_a_step": float(np.median([one["time/step"] for one in self.history])),
        }

    def _line(self, version: int, sample: Sample, score: float, reference: np.ndarray) -> dict:
        messages = sample.prompt.row.get("messages")
        return {
            "step": version, "index": sample.index,
            "prompt": messages[-1]["content"] if messages else sample.prompt.token_ids.tolist(),
            "response": self.tokenizer.decode(sample.response_ids, skip_special_tokens=True),
            "score": score, "ended": sample.ended,
            "kl": float((sample.logprobs - reference).sum(dtype=np.float64)), "tokens": len(sample.response_ids),
            "logprob": float(sample.logprobs.sum(dtype=np.float64)), "prompt_ids": sample.prompt.token_ids.tolist(),
            "response_ids": sample.response_ids.tolist(),
        }
