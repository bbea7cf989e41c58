"""Several rewards that become one, and the shaping of one: each source is normalised, clipped and weighted, then length counts.

    r = Σ_i w_i · clip((r_i − μ_i)/σ_i)  −  penalty · (how far into the last tokens before the limit)

Every source is a reward of its own, with processes, tries and failures of its own; a group that one of them cannot score has no
score. The formulas are in algorithms/shaping.py.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scale_rlhf.algorithms.shaping import clipped, mixed, normalised, overlong_penalty
from scale_rlhf.config.reward_sources import processes
from scale_rlhf.config.schema import RewardSource, RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.deadlines import at_once
from scale_rlhf.orchestration.health import State
from scale_rlhf.reward.calls import Calls
from scale_rlhf.reward.interface import RewardFleet
from scale_rlhf.telemetry.spans import Span

Moments = Mapping[str, tuple[float, float]]  # mean and deviation on reference answers, by source


class ShapedReward:
    """sources: section and fleet of each by name; the only one is called `reward`.

    moments: mean and deviation of each source that is normalised, set once they are measured (reference_answers.settle_moments).
    """

    def __init__(self, config: RunConfig, sources: Mapping[str, tuple[RewardSource, RewardFleet]]):
        self.sections = {name: section for name, (section, _) in sources.items()}
        self.fleets = {name: fleet for name, (_, fleet) in sources.items()}
        self.overlong, self.limit = config.reward.overlong, config.rollout.max_response_tokens
        self.moments: Moments = {}
        self.health = _Together(self.fleets)
        self._calls, self._counts = Calls(), _Counts()

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        """All sources at once; each has its share of `options`, in their order."""
        starts, place = [], 0
        for name, section in self.sections.items():
            count = processes(section)[0]
            starts.append(self.fleets[name].start(options[place : place + count] if options else None, probe))
            place += count
        await at_once(starts)

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        with self._calls.one(len(samples)):
            raw = await self.raw(samples, fixed=fixed, group=group)
        return self._shape(raw, samples).tolist()

    async def raw(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> dict[str, list[float]]:
        """Scores by source, as the sources give them."""
        scores = await at_once([fleet.score(samples, fixed=fixed, group=group) for fleet in self.fleets.values()])
        return dict(zip(self.fleets, scores, strict=True))

    def _shape(self, raw: Mapping[str, Sequence[float]], samples: Sequence[Sample]) -> torch.Tensor:
        shaped, weights = [], []
        for name, section in self.sections.items():
            scores = torch.tensor(raw[name], dtype=torch.float64)
            self._counts.add(f"{name}/raw_mean", scores)
            if section.normalise:
                if name not in self.moments:
                    raise RunError(f"reward {name}: it is normalised, and nothing was measured to normalise it with")
                scores = normalised(scores, *self.moments[name])
            if section.clip:
                scores, changed = clipped(scores, *section.clip)
                self._counts.add(f"{name}/clipped_share", changed.double())
            shaped.append(scores)
            weights.append(getattr(section, "weight", 1.0))
        return mixed(shaped, weights) + self._length(samples)

    def _length(self, samples: Sequence[Sample]) -> torch.Tensor:
        if self.overlong is None:
            return torch.zeros(len(samples), dtype=torch.float64)
        lengths = torch.tensor([len(sample.response_ids) for sample in samples])
        penalty = overlong_penalty(lengths, limit=self.limit, buffer=self.overlong.buffer_tokens)
        self._counts.add("overlong_share", (penalty < 0).double())
        return self.overlong.penalty * penalty

    async def metrics(self) -> dict[str, float]:
        """Those of one reward, of all sources together, and of each: SOURCE/raw_mean, SOURCE/clipped_share; overlong_share."""
        each = await asyncio.gather(*(fleet.metrics() for fleet in self.fleets.values()))
        summed = {key: sum(one.get(key, 0) for one in each) for key in ("tokens", "failed_tries", "failed_calls")
                  if any(key in one for one in each)}
        return self._calls.take() | summed | self._counts.take()

    async def spans(self) -> dict[str, list[Span]]:
        each = await asyncio.gather(*(fleet.spans() for fleet in self.fleets.values()))
        return {_named(lane, name, self.fleets): spans for name, lanes in zip(self.fleets, each, strict=True)
                for lane, spans in lanes.items()}

    def close(self) -> None:
        for fleet in self.fleets.values():
            fleet.close()


def _named(member: str, source: str, sources: Mapping[str, Any]) -> str:
    """"reward/0" of one source among several is reward/SOURCE-0."""
    role, _, rest = member.partition("/")
    return member if len(sources) == 1 else f"{role}/{source}-{rest}"


class _Together:
    """The health of all sources' processes, to look at."""

    def __init__(self, fleets: Mapping[str, RewardFleet]):
        self._fleets = fleets

    def _members(self) -> list[tuple[str, State, float]]:
        known = [(name, health) for name, fleet in self._fleets.items() if (health := getattr(fleet, "health", None))]
        return [(_named(member, name, self._fleets), state, since) for name, health in known
                for member, state, since in zip(health.names, health.states, health.since, strict=True)]

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self._members()]

    @property
    def states(self) -> list[State]:
        return [state for _, state, _ in self._members()]

    @property
    def since(self) -> list[float]:
        return [since for _, _, since in self._members()]


class _Counts:
    """Means over samples since the last take."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, key: str, values: torch.Tensor) -> None:
        total, count = self._sums.get(key, (0.0, 0))
        self._sums[key] = total + float(values.sum()), count + len(values)

    def take(self) -> dict[str, float]:
        sums, self._sums = self._sums, {}
        return {key: total / count for key, (total, count) in sums.items() if count}
