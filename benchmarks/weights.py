"""4. Weights: publishing a version to an engine, for ZeRO 0 and 3.

The limit is one copy of the same bytes into warm shared memory plus vLLM's own reload of the same tensors from memory,
timed in the same run in an engine of the same settings; beside it stands one remote call a parameter.
"""

from collections.abc import Iterator

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
    with Progress("weights", len(sizes) * (1 + len(STAGES) * (1 + rounds(3, options.blocks)))) as progress:
        for size in sizes:
            for stage, blocks in measured(size, options.blocks, progress):
                result.blocks[f"{size}, ZeRO {stage}"] = blocks
                result.figures += figures(size, stage, blocks)
    return result


def measured(size: str, blocks: int, progress: Progress) -> Iterator[tuple[int, Blocks]]:
    """For each ZeRO stage in turn the limit, the calls and ours: three copies of 400M parameters are what the memory holds."""
    with models.made(size) as model:
        progress.doing(f"{size}: an engine for the limit")
        with Peer("reload", {"model": model}, threads=1) as limit:
            progress.done("start")
            for stage in STAGES:
                progress.doing(f"{size}: policy at ZeRO {stage} and an engine")
                with Peer("publish", {"model": model, "zero_stage": stage}, threads=1) as ours:
                    progress.done("start")
                    timed = {"limit": lambda: limit.ask("block"), "a call a parameter": lambda ours=ours: ours.ask("calls"),
                             "ours": lambda ours=ours: ours.ask("block")}
                    yield stage, alternate(timed, blocks, progress)


def figures(size: str, stage: int, blocks: Blocks) -> list[Figure]:
    limit, reload = column(blocks, "limit", "seconds"), column(blocks, "limit", "reload")
    calls = [mine + load for mine, load in zip(column(blocks, "a call a parameter", "seconds"), reload, strict=True)]
    seconds, stopped, name = column(blocks, "ours", "seconds"), column(blocks, "ours", "stopped"), f"{size}, ZeRO {stage}"
    return [
        figure(f"publish {name}", seconds, limit, against="a copy and vLLM's reload", unit="s",
               aim=at_most(AIM) if size in AIMED else None),
        figure(f"publish {name}", seconds, calls, against="a call a parameter and the reload", unit="s"),
        figure(f"decoding stopped, {name}", stopped, reload, against="vLLM's reload", unit="s",
               aim=at_most(STOPPED) if size in AIMED else None),
        figure(f"rate {name}", column(blocks, "ours", "gigabytes_per_second"), column(blocks, "limit", "copy_rate"),
               against="one copy", unit="GB/s"),
    ]
