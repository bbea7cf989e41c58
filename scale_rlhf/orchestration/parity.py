"""The probe: do engine and trainer give the same tokens the same log-probabilities, at the same version?

A fixed set of prompts is answered by every engine, and the trainer computes the log-probabilities of those answers.
A gap means that an engine holds other weights than it should, or computes something else: training on its samples
would be training on wrong ratios, so the run stops.
"""

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Prompt
from scale_rlhf.orchestration.roles import Roles

PROMPTS = 2
TOKENS = 16
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

    def probe_with(self, token_ids: list[np.ndarray]) -> None:
        """The prompts to ask. Negative indices: seeds of their own, that no sample shares."""
        self.prompts = [Prompt(-1 - i, -1, ids) for i, ids in enumerate(token_ids[:PROMPTS])]

    async def probe(self, version: int) -> dict[str, float]:
        """Compare at `version`, which both sides hold. Raises RunError past the limit."""
        if not self.prompts or version % self.config.limits.probe_every:
            return {}
        samples = await self.roles.rollout.probe(self.prompts, min(TOKENS, self.config.rollout.max_response_tokens))
        trainer = await self.roles.policy.logprobs(samples)
        gaps = [np.abs(sample.logprobs - logprobs) for sample, logprobs in zip(samples, trainer, strict=True)]
        behind = {int(v) for sample in samples for v in sample.versions} - {version}
        worst = max(range(len(gaps)), key=lambda i: gaps[i].max())
        largest = float(gaps[worst].max())
        if behind or not largest <= self.limit:
            engine = worst // len(self.prompts)
            says = f"it says it holds version {sorted(behind)}" if behind else f"they differ by up to {largest:.3g} nats"
            raise RunError(
                f"rollout engine {engine} and the policy disagree at version {version}: {says}, the limit is {self.limit:g} "
                "(limits.parity_gap). The engine holds other weights than the policy, or one of them computes in another type or "
                "with another kernel. Samples of it would be trained on with wrong ratios, so the run stops here. Compare "
                "rollout.dtype with policy.dtype; if they must differ, raise limits.parity_gap to what you measure at version 0"
            )
        return {"parity/gap_mean": float(np.concatenate(gaps).mean()), "parity/gap_max": largest}
