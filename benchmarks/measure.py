"""The arithmetic: medians with their spread, ratios paired block by block, and whether an aim is met. Imports nothing heavy."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of the blocks."""

    median: float
    low: float
    high: float
    blocks: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one number a block. Raises ValueError where there is none."""
        if not values:
            raise ValueError("no block was measured")
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Aim:
    """at_least 0.95, or at_most 1.10."""

    kind: Literal["at_least", "at_most"]
    value: float

    def met(self, number: float) -> bool:
        return number >= self.value if self.kind == "at_least" else number <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'at_least' else '≤'} {self.value:g}"


def at_least(value: float) -> Aim:
    return Aim("at_least", value)


def at_most(value: float) -> Aim:
    return Aim("at_most", value)


@dataclass(frozen=True)
class Figure:
    """One line of the table: `ours` against `other`, both in `unit`, and their ratio ours / other."""

    name: str
    against: str  # what `other` is
    unit: str  # of ours and other
    ours: Spread
    other: Spread
    ratio: Spread
    aim: Aim | None = None

    @property
    def verdict(self) -> str:
        """"met", "missed", or "" where there is no aim. The median decides."""
        if self.aim is None:
            return ""
        return "met" if self.aim.met(self.ratio.median) else "missed"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"aim": str(self.aim) if self.aim else None, "verdict": self.verdict or None}


def figure(
    name: str, ours: Sequence[float], other: Sequence[float], *, against: str, unit: str, aim: Aim | None = None,
) -> Figure:
    """Compare block by block: both were measured one after the other, so that what slows the machine slows both.

    ours, other: one number a block, in the same order. Raises ValueError where their number differs.
    """
    if len(ours) != len(other):
        raise ValueError(f"{name}: {len(ours)} blocks against {len(other)}")
    ratios = [mine / others for mine, others in zip(ours, other, strict=True)]
    return Figure(name, against, unit, Spread.of(ours), Spread.of(other), Spread.of(ratios), aim)


def number_text(value: float) -> str:
    """Three digits that matter: 12300, 1.57, 0.0123."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread_text(spread: Spread, digits: int | None = None) -> str:
    """1.57 (1.52–1.60)."""
    def text(value: float) -> str:
        return number_text(value) if digits is None else f"{value:.{digits}f}"

    return text(spread.median) if spread.blocks == 1 else f"{text(spread.median)} ({text(spread.low)}–{text(spread.high)})"
