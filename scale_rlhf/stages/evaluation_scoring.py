"""What models say of answers: KL to the model that PPO started from, reward-model scores, perplexity on base text.

Each model is a fleet of the same kind as the reference (its processes, type and token budget are those of `reference`), so
that any model that fits there is measured here. As many fleets run at once as the cluster has room for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from scale_rlhf.cluster.device import device
from scale_rlhf.config.reward_sources import outside, reward_sources
from scale_rlhf.experience.packing import in_rows, pack
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.models.forward import response_logprobs_alone
from scale_rlhf.models.frozen.fleet import FrozenFleet
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.reference.server import ResponseLogprobs
from scale_rlhf.reward.make import make_reward
from scale_rlhf.reward.reference_answers import settle_moments
from scale_rlhf.stages.evaluation_answers import Contestants
from scale_rlhf.telemetry.progress import StageProgress, stage_progress

if TYPE_CHECKING:
    from scale_rlhf.config.roles import FrozenRole
    from scale_rlhf.config.schema import RunConfig

GROUP = 64  # samples of one request
REQUESTS = 2  # under way at a replica: one is computed while the next waits


@dataclass
class Scores:
    """By model. kl: nats a response. perplexity: of held-out base text. rewards: one number an answer."""

    kl: dict[str, float] = field(default_factory=dict)
    perplexity: dict[str, float] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class SummedLogprobs(ResponseLogprobs):
    """log p of a whole response, summed over its tokens. The samples of one request share prompt.row["temperature"]."""

    def compute(self, model: nn.Module, items: Sequence[Sample]) -> list[float]:
        packed = pack(items, in_rows(self.attention))
        temperature = items[0].prompt.row.get("temperature", self.temperature)
        logprobs = response_logprobs_alone(model, packed.to(device()), temperature)
        return [float(part.double().sum()) for part in logprobs.cpu().split(packed.lengths)]


def measure(
    config: RunConfig,
    who: Contestants,
    answers: dict[str, list[Sample]],
    for_kl: dict[str, list[Sample]],
    text: Sequence[list[int]],
    reward_model: str | None,
    folder: RunFolder,
) -> Scores:
    """Scores of every model. Blocks; Ray must be up.

    for_kl: each model's own samples, at rollout.temperature; none of the anchor's. text: rows of token ids of base text.
    reward_model: folder or hub name; None: the function or service of `reward`, if there is one, else no rewards.
    folder: of the run, which keeps what its rewards are normalised with; measured here where no stage has done so.
    """
    return asyncio.run(_measure(config, who, answers, for_kl, text, reward_model, folder))


def text_samples(rows: Sequence[list[int]]) -> list[Sample]:
    """Rows of text as samples whose response is all but the first token, which nothing predicts."""
    return [_sample(place, row[:1], row[1:], 1.0) for place, row in enumerate(rows) if len(row) > 1]


def perplexity(sums: Sequence[float], tokens: int) -> float:
    """exp of the mean negative log-likelihood a token, from the sums over rows."""
    return math.exp(-math.fsum(sums) / tokens)


def kl_estimate(own: Sequence[float], anchor: Sequence[float]) -> float:
    """Mean over a model's own samples of log π − log π_anchor, each summed over the response: k1, unbiased, in nats."""
    return math.fsum(a - b for a, b in zip(own, anchor, strict=True)) / len(own)


async def _measure(config, who: Contestants, answers, for_kl, text, reward_model, folder) -> Scores:
    texts = text_samples(text)
    own = {name: [_at(sample, config.rollout.temperature) for sample in samples] for name, samples in for_kl.items()}
    # A perplexity a token means nothing beside one in other tokens.
    jobs: dict[str, dict[str, list[Sample]]] = {name: {"text": texts} for name in who.paths if name not in who.tokenizers}
    for name, samples in own.items():
        jobs[name][name] = samples
        jobs[who.anchor][name] = samples
    rewarded = all(outside(source) or source.model or reward_model for source in reward_sources(config).values())
    total = sum(len(job) for parts in jobs.values() for job in parts.values()) + rewarded * sum(map(len, answers.values()))
    room = asyncio.Semaphore(_at_once(config))
    scores = Scores()
    with stage_progress("evaluate: scores", total) as progress:

        async def model(name: str) -> None:
            async with room:
                sums[name] = await _log_likelihoods(config, name, who.paths[name], jobs[name], progress)

        async def rewards() -> None:
            async with room:
                scores.rewards = await _rewards(config, reward_model, who, answers, progress, folder)

        sums: dict[str, dict[str, list[float]]] = {}
        await _all([*(model(name) for name in jobs), *([rewards()] if rewarded else [])])
    if texts:
        tokens = sum(len(sample.response_ids) for sample in texts)
        scores.perplexity = {name: perplexity(sums[name]["text"], tokens) for name in jobs}
    scores.kl = {name: kl_estimate(sums[name][name], sums[who.anchor][name]) for name in own} | {who.anchor: 0.0}
    return scores


async def _log_likelihoods(
    config: RunConfig, name: str, path: str, jobs: dict[str, list[Sample]], progress: StageProgress
) -> dict[str, list[float]]:
    """log p of every response of every job under one model."""
    section = config.reference
    work = SummedLogprobs(path, section.dtype, config.model.attention, config.model.trust_remote_code, config.rollout.temperature)
    fleet = FrozenFleet(f"evaluation of {name}", work, section, config.limits)
    try:
        await fleet.start()
        return {job: await in_groups(samples, section, _compute(fleet), progress) for job, samples in jobs.items()}
    finally:
        fleet.close()


def _compute(fleet: FrozenFleet):
    async def compute(samples: Sequence[Sample], group: int) -> list[float]:
        return await fleet.compute(samples, fixed=True, group=group, what="log-probabilities")

    return compute


async def _rewards(config, reward_model, who: Contestants, answers, progress: StageProgress, folder) -> dict[str, list[float]]:
    policy = who.paths[who.anchor]
    reward = make_reward(config, model=reward_model, policy=policy)

    async def compute(samples: Sequence[Sample], group: int) -> list[float]:
        return await reward.score(samples, fixed=True, group=group)

    try:
        await reward.start()
        await settle_moments(config, folder, reward, policy)
        return {name: await in_groups(samples, config.reward, compute, progress) for name, samples in answers.items()}
    finally:
        reward.close()


async def in_groups(samples: Sequence[Sample], section: FrozenRole, compute, progress: StageProgress) -> list[float]:
    """Requests of GROUP samples, few enough at a time that none waits long for its turn. Results in order."""
    turns = asyncio.Semaphore(REQUESTS * section.replicas)

    async def request(start: int) -> list[float]:
        async with turns:
            results = await compute(samples[start : start + GROUP], start // GROUP)
        progress.advance(len(results))
        return results

    return [number for part in await _all([request(start) for start in range(0, len(samples), GROUP)]) for number in part]


async def _all(coroutines: Sequence) -> list:
    """Like gather, but when one fails the others are ended (and close their processes) before the error travels."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _at_once(config: RunConfig) -> int:
    """Fleets that the cluster has CPUs and GPUs for at the same time, at least one."""
    import ray

    there = ray.cluster_resources()
    fits = []
    for sections in ([config.reference], list(reward_sources(config).values())):
        for kind, key in (("CPU", "cpus"), ("GPU", "gpus")):
            if wanted := sum(section.replicas * section.workers * getattr(section, key) for section in sections):
                fits.append(there.get(kind, 0) / wanted)
    return max(1, math.floor(min(fits) + 1e-6))


def _at(sample: Sample, temperature: float) -> Sample:
    return _sample(sample.index, sample.prompt.token_ids, sample.response_ids, temperature)


def _sample(index: int, prompt: Sequence[int], response: Sequence[int], temperature: float) -> Sample:
    ids = np.asarray(response, np.int32)
    zeros = np.zeros(len(ids), np.float32)
    return Sample(
        Prompt(index, index, np.asarray(prompt, np.int32), {"temperature": temperature}), ids, zeros, zeros.astype(np.int32), True
    )
