"""Contenders take turns, block by block, so that whatever else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.progress import Progress

Numbers = dict[str, float]
Contenders = Mapping[str, Callable[[], Numbers]]  # each call measures one block
Blocks = dict[str, list[Numbers]]  # of each contender, in the order of the blocks


def alternate(contenders: Contenders, blocks: int, progress: Progress, *, warm_up: int = 1) -> Blocks:
    """Measure `blocks` blocks of every contender, after `warm_up` rounds whose numbers are dropped.

    The order turns round with every block: A B C, C B A, A B C. Each block also gets its "wall_seconds".
    """
    found: Blocks = {name: [] for name in contenders}
    for number in range(-warm_up, blocks):
        for name in turn(list(contenders), number + warm_up):
            progress.doing(f"{name}, {'warm-up' if number < 0 else f'block {number + 1} of {blocks}'}")
            started = time.perf_counter()
            numbers = contenders[name]()
            if number >= 0:
                found[name].append({"wall_seconds": time.perf_counter() - started} | numbers)
            progress.done(name)
    return found


def turn(names: Sequence[str], number: int) -> list[str]:
    """The order of round `number`."""
    return list(names) if number % 2 == 0 else list(reversed(names))


def column(blocks: Blocks, contender: str, key: str) -> list[float]:
    """One number of each block of a contender."""
    return [numbers[key] for numbers in blocks[contender]]


def rounds(contenders: int, blocks: int, warm_up: int = 1) -> int:
    """How many blocks `alternate` will measure, for the progress."""
    return contenders * (blocks + warm_up)
