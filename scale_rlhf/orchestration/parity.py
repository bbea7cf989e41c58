"""The probe: do engine and trainer give the same tokens the same log-probabilities, at the same version?

Before the first step every engine answers a few prompts, and the trainer computes the log-probabilities of what was
sampled. Those answers are then shown to both after every update: the trainer computes them the moment a version is
published, before it goes on to the next, each engine when it has loaded that version, while its samples decode on.

A gap means that an engine holds other weights than it should, or computes something else: training on its samples
would be training on wrong ratios, so the run stops.
"""

from dataclasses import replace

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.roles import Roles

PROMPTS = 2
TOKENS = 16
Found = list[tuple[np.ndarray, int]]  # log-probabilities of each probe, and the version that an engine held
FLOAT32_GAP, BFLOAT16_GAP = 1e-4, 0.15  # nats; bfloat16 keeps 8 bits of a logit


def limit(config: RunConfig) -> float:
    """Largest gap in nats that a run goes on with."""
    if config.limits.parity_gap is not None:
        return config.limits.parity_gap
    types = {config.rollout.dtype, config.policy.dtype}
    return BFLOAT16_GAP if "bfloat16" in types else FLOAT32_GAP


class Parity:
    def __init__(self, config: RunConfig, roles: Roles):
        self.config, self.roles, self.limit = config, roles, limit(config)
        self.prompts: list[Prompt] = []
        self.shown: list[Sample] = []

    def probe_with(self, token_ids: list[np.ndarray]) -> None:
        """The prompts to ask. Negative indices: seeds of their own, that no sample shares."""
        self.prompts = [Prompt(-1 - i, -1, ids) for i, ids in enumerate(token_ids[:PROMPTS])]

    async def begin(self, version: int) -> dict[str, float]:
        """Have every engine answer, and compare what it sampled. Raises RunError past the limit."""
        if not self.prompts:
            return {}
        places = self.roles.rollout.health.serving
        samples = await self.roles.rollout.probe(self.prompts, min(TOKENS, self.config.rollout.max_response_tokens))
        self.shown = [fit for sample in samples[: len(self.prompts)] if (fit := self._fitting(sample))]
        found = [(sample.logprobs, int(sample.versions.max())) for sample in samples]
        trainer, count = await self.roles.policy.logprobs(samples), len(self.prompts)
        engines = {place: found[i * count : (i + 1) * count] for i, place in enumerate(places)}
        return self._compared(version, engines, trainer)

    async def trainer(self, version: int) -> list[np.ndarray]:
        """The trainer's side of the probe, at temperature 1; nothing where none is due. The policy must be at `version`."""
        if not self.shown or version % self.config.limits.probe_every:
            return []
        return await self.roles.policy.logprobs(self.shown, 1.0)

    async def compare(self, version: int, trainer: list[np.ndarray]) -> dict[str, float]:
        """The engines' side, which must hold `version`. Raises RunError past the limit."""
        if not trainer:
            return {}
        engines = await self.roles.rollout.score(self.shown)
        if not engines:
            return {}  # none serves at this moment
        return self._compared(version, engines, trainer * len(engines))

    def _compared(self, version: int, engines: dict[int, Found], trainer: list[np.ndarray]) -> dict[str, float]:
        """engines: by place. trainer: log-probabilities in the same order."""
        found = [(place, *one) for place, each in engines.items() for one in each]
        gaps = [np.abs(logprobs - theirs) for (_, logprobs, _), theirs in zip(found, trainer, strict=True)]
        behind = {held for *_, held in found} - {version}
        worst = max(range(len(gaps)), key=lambda i: gaps[i].max())
        largest = float(gaps[worst].max())
        if behind or not largest <= self.limit:
            says = f"it says it holds version {sorted(behind)}" if behind else f"they differ by up to {largest:.3g} nats"
            place = next(place for place, _, held in found if held in behind) if behind else found[worst][0]
            raise RunError(
                f"rollout engine {place} and the policy disagree at version {version}: {says}, the limit is {self.limit:g} "
                "(limits.parity_gap). The engine holds other weights than the policy, or one of them computes in another type or "
                "with another kernel. Samples of it would be trained on with wrong ratios, so the run stops here. Compare "
                "rollout.dtype with policy.dtype; if they must differ, raise limits.parity_gap to what you measure at version 0"
            )
        return {"parity/gap_mean": float(np.concatenate(gaps).mean()), "parity/gap_max": largest}

    def _fitting(self, sample: Sample) -> Sample | None:
        """The answer without what an engine could not be shown: it wants room for one token more."""
        room = self.config.data.max_prompt_tokens + self.config.rollout.max_response_tokens - 1 - len(sample.prompt.token_ids)
        count = min(room, len(sample.response_ids))
        cut = {name: getattr(sample, name)[:count] for name in ("response_ids", "logprobs", "versions")}
        return replace(sample, **cut) if count > 0 else None
