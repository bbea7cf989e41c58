"""What a benchmark is asked for on the command line."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """size: of the model, "3M" or "50M". blocks: of each contender. threads: of a process that computes.

    scale: share of the usual work in a block; less than 1 is for trying a benchmark out, not for figures that count.
    """

    size: str = "3M"
    blocks: int = 3
    threads: int = 2
    dtypes: list[str] = field(default_factory=lambda: ["float32"])
    scale: float = 1.0
    only: list[str] = field(default_factory=list)  # parts of a benchmark; empty: all
