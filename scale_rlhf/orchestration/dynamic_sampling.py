"""DAPO's dynamic sampling (Yu et al. 2025, section 3.2): prompts that say nothing are left out, and others come in their place.

Where all responses to a prompt score alike every advantage is 0: they would fill the batch and move nothing. They are
filtered as what could not be scored is, with the reason in ppo/filtered.jsonl, and admission lets as many others start.
"""

from collections.abc import Sequence

from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Sample


class DynamicSampling:
    """Decides on scored samples, in whole groups, and counts."""

    def __init__(self, limit: int, missing_end_penalty: float | None):
        """limit: prompts in a row that may be left out. missing_end_penalty: added to scores before they are compared."""
        self.limit, self.penalty = limit, missing_end_penalty or 0.0
        self.in_a_row = self._seen = self._silent = 0

    def silent(self, samples: Sequence[Sample], scores: Sequence[float]) -> dict[int, str]:
        """Why the samples of a group are to be left out, by group. Raises RunError past the limit."""
        found: dict[int, list[float]] = {}
        for sample, score in zip(samples, scores, strict=True):
            found.setdefault(sample.prompt.group, []).append(score + (0.0 if sample.ended else self.penalty))
        reasons = {}
        for group, each in found.items():
            self._seen += 1
            if min(each) < max(each):
                self.in_a_row = 0
                continue
            reasons[group] = f"no signal: all {len(each)} responses to its prompt scored {each[0]:g} (ppo.dynamic_sampling)"
            self.in_a_row += 1
            if self.in_a_row > self.limit:
                raise RunError(
                    f"{self.in_a_row} prompts in a row had responses that all scored alike, the last {each[0]:g} "
                    "(limits.silent_groups): there is nothing to learn from. Is the reward too hard, too easy, or broken? Look "
                    "at ppo/filtered.jsonl; raise ppo.responses_per_prompt or rollout.temperature, or take other prompts")
        self._silent += len(reasons)
        return reasons

    def take(self) -> dict[str, float]:
        """Metrics since the last call."""
        seen, silent, self._seen, self._silent = self._seen, self._silent, 0, 0
        return {"sampling/silent_prompts": float(silent), "sampling/silent_share": silent / max(seen, 1)}
