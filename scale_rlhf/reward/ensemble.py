"""Several scores of a sample made one: the aspects of a model by weight, the members of an ensemble by `reward.combine`.

All members are in the same process (or the same group of ZeRO-3 ranks), and each batch goes through one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from scale_rlhf.algorithms.ensembles import Combination, combined, deviation, mixed
from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.sample import Sample, step_of
from scale_rlhf.telemetry import logs

if TYPE_CHECKING:
    from scale_rlhf.reward.learned import Scores


class Score(NamedTuple):
    """What an ensemble says of one sample."""

    score: float
    parts: dict[str, float]  # aspects (mean over the members) and deviation between members, where there are several


class Together(nn.Module):
    """The models of an ensemble as one module."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, place: int, *inputs, **named):
        return self.members[place](*inputs, **named)


@dataclass
class Item:
    """One sample, as each member reads it."""

    read: list[Any]

    @property
    def tokens(self) -> int:
        return max(one.tokens for one in self.read)


@dataclass
class Ensemble:
    """The score of each sample by one model or several. weights: of aspects; {}: their mean."""

    members: list["Scores"]
    weights: dict[str, float]
    how: Combination
    coefficient: float
    aspects: list[str] = field(default_factory=list)  # found out by `load`

    @property
    def path(self) -> str:
        return ", ".join(member.path for member in self.members)

    def load(self) -> nn.Module:
        models = [member.load() for member in self.members]
        self.aspects = self.members[0].labels
        for member in self.members[1:]:
            if member.labels != self.aspects:
                raise ConfigError(f"reward.ensemble: {member.path} scores {', '.join(member.labels)} and {self.members[0].path} "
                                  f"{', '.join(self.aspects)}; expected the same of every member")
        self._check_weights(self.members[0])
        return Together(models)

    def prepare(self, samples: Sequence[Sample]) -> list[Item]:
        logs.at_step(step_of(samples))
        return [Item(list(read)) for read in zip(*(member.prepare(samples) for member in self.members), strict=True)]

    def compute(self, model: nn.Module, items: Sequence[Item]) -> list[Score]:
        aspects = torch.stack([member.compute(partial(model, place), [item.read[place] for item in items])
                               for place, member in enumerate(self.members)])  # [members, samples, aspects]
        even = 1 / len(self.aspects)
        weights = torch.tensor([self.weights.get(name, 0.0) if self.weights else even for name in self.aspects])
        members = mixed(aspects, weights)
        parts = {}
        if len(self.aspects) > 1:
            parts |= {f"aspect_{name}": values for name, values in zip(self.aspects, aspects.mean(0).T.tolist(), strict=True)}
        if len(self.members) > 1:
            parts["ensemble_deviation"] = deviation(members).tolist()
        scores = combined(members, self.how, self.coefficient).tolist()
        return [Score(score, {name: values[place] for name, values in parts.items()}) for place, score in enumerate(scores)]

    def filler(self) -> Item:
        return Item([member.filler() for member in self.members])

    def _check_weights(self, first: "Scores") -> None:
        unknown = [name for name in self.weights if name not in self.aspects]
        if unknown:
            near = get_close_matches(unknown[0], self.aspects, n=1)
            raise ConfigError(f"reward.aspects: {first.path} has no label {unknown[0]}; expected some of "
                              f"{', '.join(self.aspects)}{f'; did you mean {near[0]}?' if near else ''}")
        if len(self.aspects) > 1 and not self.weights and not first.regression:
            raise ConfigError(f"reward.aspects: {first.path} is a classifier of {len(self.aspects)} labels "
                              f"({', '.join(self.aspects)}), whose mean says nothing; give a weight to those that make the score")
