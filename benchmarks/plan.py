"""Which benchmarks run at which size and in which types: `make bench` and `make bench-full`."""

from dataclasses import dataclass

NAMES = ("controller", "rollout", "training", "weights", "overlap", "trl")
ONE_SIZE = ("controller", "weights")  # these do not depend on the size of the trained model
ONE_TYPE = ("controller", "weights", "overlap")  # float32 alone
ONLY = {"weights": ("100M",), "trl": ("grpo",)}  # in `make bench` of all; one that is named runs whole
FLOAT32, BOTH = ("float32",), ("float32", "bfloat16")


@dataclass(frozen=True)
class Job:
    name: str
    size: str
    dtypes: tuple[str, ...]
    only: tuple[str, ...] = ()  # parts of it; none: all


def jobs(names: list[str], *, full: bool) -> list[Job]:
    """In the order of running. full: 50M parameters too, bfloat16, weights of every size, and PPO against its parts; otherwise
    3M in float32, and the parts of ONLY.
    """
    chosen = [name for name in NAMES if not names or name in names]
    found = [Job(name, "3M", _types(name, full), () if full or names else ONLY.get(name, ())) for name in chosen]
    if full:
        found += [Job(name, "50M", _types(name, full)) for name in chosen if name not in ONE_SIZE]
    return found


def _types(name: str, full: bool) -> tuple[str, ...]:
    if name in ONE_TYPE:
        return FLOAT32
    return BOTH if full else FLOAT32
