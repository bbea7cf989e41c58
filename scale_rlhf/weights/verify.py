"""Fingerprints of weights: few numbers a tensor that a learner computes from the tensor, and an engine by using it.

An engine may have packed a tensor into a form of its own; then its layer can still be asked for y·W·x. So a
fingerprint of W [rows, columns] is made of products with fixed vectors x [columns] and y [rows]:

* `BROAD` numbers with every entry of x and y ±1: a change of any entry moves them. They carry the rounding of the
  engine's matrix product, so they are compared against the tensor's norm;
* `EXACT` numbers with x all 0 but for one 1: a column of W comes out of any matrix product as it is, in any type,
  so that these must agree to the last digits;
* the sum of squares of W, for the norm (the learner's alone).

A vector or a scalar counts as one column. Everything is a sum over entries: fingerprints of parts (ZeRO shards,
tensor-parallel ranks) add up to that of the whole.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch

BROAD, EXACT = 4, 4
NUMBERS = BROAD + EXACT
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # of broad numbers, against the norm; by the type that the engine computes in
EXACT_TOLERANCE = 1e-9  # no rounding: a sum of zeros and one entry, in every type


def probes(columns: int) -> torch.Tensor:
    """The vectors x that go through a layer: float32 [NUMBERS, columns], first the broad ones."""
    signs = _signs(columns, "x")[:BROAD]
    ones = torch.zeros(EXACT, columns)
    generator = torch.Generator().manual_seed(columns)
    ones[torch.arange(EXACT), torch.randint(columns, (EXACT,), generator=generator)] = 1.0
    return torch.cat([signs, ones])


def weights_of_rows(rows: int) -> torch.Tensor:
    """The vectors y: float32 [NUMBERS, rows]."""
    return _signs(rows, "y")


def fingerprint(flat: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, start: int = 0) -> list[float]:
    """Fingerprint and sum of squares of a tensor or of a shard: NUMBERS + 1 numbers.

    flat: entries `start`, `start` + 1, … of the tensor in row-major order. shape: of the whole tensor. dtype: that the
    engine keeps the tensor in, to which entries are rounded first.
    """
    flat = flat.detach().to(dtype).float().cpu()
    rows, columns = matrix_shape(shape)
    x, y, total = probes(columns), weights_of_rows(rows), torch.zeros(NUMBERS, dtype=torch.float64)
    place = start
    while place < start + len(flat):
        row, column = divmod(place, columns)
        if column == 0 and start + len(flat) - place >= columns:  # whole rows
            count = (start + len(flat) - place) // columns
            block = flat[place - start :][: count * columns].view(count, columns)
            total += outputs_fingerprint(block @ x.T, y[:, row : row + count])
            place += count * columns
        else:
            part = flat[place - start :][: columns - column]
            total += y[:, row].double() * (x[:, column : column + len(part)].double() @ part.double())
            place += len(part)
    return [*total.tolist(), float(torch.linalg.vector_norm(flat, dtype=torch.float64) ** 2)]


def outputs_fingerprint(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """outputs: [rows, NUMBERS], W·x for each probe. y: [NUMBERS, rows]. Returns float64 [NUMBERS]."""
    return (outputs.double() * y.T.double()).sum(0)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) as which a tensor of any shape is taken."""
    size = torch.Size(shape).numel()
    return (size, 1) if len(shape) < 2 else (size // shape[-1], shape[-1])


def differences(expected: Mapping[str, list[float]], found: Mapping[str, list[float]], dtype: str) -> list[str]:
    """What does not agree, a sentence for each tensor; none if the engine computes with the learner's weights.

    expected: of every tensor, NUMBERS + 1 numbers. found: of the engine, NUMBERS numbers under "name", or
    "layer=name" where a layer should hold a tensor of another name (a tied output head).
    """
    wrong = [f"{name} could not be verified: no layer of the engine was found to hold it"
             for name in sorted(expected.keys() - {key.rpartition("=")[2] for key in found})]
    for key, numbers in sorted(found.items()):
        name = key.rpartition("=")[2]
        label = key.replace("=", ", which should be ")
        if name not in expected:
            wrong.append(f"{label} could not be verified: the learner published no such tensor")
            continue
        *theirs, squares = expected[name]
        norm = squares**0.5
        for place, (mine, other) in enumerate(zip(numbers, theirs, strict=True)):
            allowed = (TOLERANCE[dtype] if place < BROAD else EXACT_TOLERANCE) * max(norm, 1e-12)
            if not abs(mine - other) <= allowed:
                wrong.append(f"{label} is not the learner's: a probe gives {mine:.7g}, the learner's {other:.7g} "
                             f"(allowed: {allowed:.2g})")
                break
    return wrong


@lru_cache(maxsize=256)
def _signs(length: int, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2 * length + (kind == "y"))
    return torch.randint(0, 2, (NUMBERS, length), generator=generator).float() * 2 - 1
