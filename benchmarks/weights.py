"""4. Weights: publishing a version to an engine, for ZeRO 0 and 3.

The limit is one copy of the same bytes into warm shared memory plus vLLM's own reload of the same tensors from memory,
timed in the same run in an engine of the same settings; beside it stands one remote call a parameter.
"""

from benchmarks import models
from benchmarks.alternate import Blocks, alternate, column, rounds
from benchmarks.measure import Figure, at_most, figure
from benchmarks.options import Options
from benchmarks.peer import Peer
from benchmarks.progress import Progress
from benchmarks.result import Result

SIZES = ("10M", "100M", "400M")
AIMED = ("100M", "400M")  # smaller versions are bounded by calls, not by bytes
STAGES = (0, 3)
AIM = 1.2
STOPPED = 1.2  # decoding may stop for so much of vLLM's own reload


def run(options: Options) -> Result:
    """options.size does not matter here; options.only chooses among SIZES."""
    sizes = [size for size in SIZES if size in (options.only or SIZES)]
    result = Result("weights", options.size, {"sizes": sizes, "zero_stages": STAGES, "dtype": "float32"})
    with Progress("weights", len(sizes) * (3 + rounds(4, options.blocks))) as progress:
        for size in sizes:
            result.blocks[size] = blocks = measured(size, options.blocks, progress)
            result.figures += figures(size, blocks)
    return result


def measured(size: str, blocks: int, progress: Progress) -> Blocks:
    """The limit and the calls in one process, ours in one for each ZeRO stage."""
    with models.made(size) as model:
        progress.doing(f"{size}: an engine for the limit")
        with Peer("reload", {"model": model}, threads=1) as limit:
            progress.done("start")
            peers = []
            try:
                for stage in STAGES:
                    progress.doing(f"{size}: policy at ZeRO {stage} and an engine")
                    peers.append(Peer("publish", {"model": model, "zero_stage": stage}, threads=1))
                    progress.done("start")
                timed = {"limit": lambda: limit.ask("block"), "a call a parameter": lambda: peers[0].ask("calls")}
                timed |= {f"ZeRO {stage}": lambda p=peer: p.ask("block") for stage, peer in zip(STAGES, peers, strict=True)}
                return alternate(timed, blocks, progress)
            finally:
                for peer in peers:
                    peer.close()


def figures(size: str, blocks: Blocks) -> list[Figure]:
    limit, reload = column(blocks, "limit", "seconds"), column(blocks, "limit", "reload")
    calls = [mine + load for mine, load in zip(column(blocks, "a call a parameter", "seconds"), reload, strict=True)]
    found = []
    for stage in STAGES:
        name = f"ZeRO {stage}"
        seconds, stopped = column(blocks, name, "seconds"), column(blocks, name, "stopped")
        aim = at_most(AIM) if size in AIMED else None
        found += [
            figure(f"publish {size}, {name}", seconds, limit, against="a copy and vLLM's reload", unit="s", aim=aim),
            figure(f"publish {size}, {name}", seconds, calls, against="a call a parameter and the reload", unit="s"),
            figure(f"decoding stopped, {size}, {name}", stopped, reload, against="vLLM's reload", unit="s",
                   aim=at_most(STOPPED) if size in AIMED else None),
            figure(f"rate {size}, {name}", column(blocks, name, "gigabytes_per_second"),
                   column(blocks, "limit", "copy_rate"), against="one copy", unit="GB/s"),
        ]
    return found
