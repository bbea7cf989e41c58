"""python -m benchmarks [NAME …]: run benchmarks, show their tables, write JSON and a page of plots.

One NAME with --size runs here; otherwise each runs in a process of its own, one after another.
"""

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.options import Options
from benchmarks.plan import NAMES, jobs
from benchmarks.report import show, write_page
from benchmarks.result import FOLDER, Result, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a benchmark failed. A missed aim is no failure."""
    asked = parser().parse_args(arguments)
    names = [] if asked.names == ["all"] else asked.names
    results, failed = ([one(names[0], options(asked))], []) if len(names) == 1 and asked.size else several(names, asked)
    show(results)
    if results:
        print(f"numbers: {FOLDER}/*.json   plots: {write_page(everything())}")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def one(name: str, chosen: Options) -> Result:
    """Run one benchmark here, and write its result."""
    started = time.monotonic()
    result = importlib.import_module(f"benchmarks.{name}").run(chosen)
    result.seconds = time.monotonic() - started
    result.write()
    return result


def several(names: list[str], asked: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Each in a process of its own, so that none inherits threads or memory of another."""
    results, failed = [], []
    planned = jobs(names, full=asked.full)
    for number, job in enumerate(planned, 1):
        print(f"\n{job.name}, {job.size}: {number} of {len(planned)}", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks", job.name, "--size", job.size, "--blocks", str(asked.blocks),
                   "--threads", str(asked.threads), "--scale", str(asked.scale), "--dtype", *(asked.dtype or job.dtypes)]
        if only := asked.only or job.only:
            command += ["--only", *only]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            failed.append(f"{job.name}, {job.size}")
        else:
            results.append(read(FOLDER / f"{job.name}-{job.size}.json"))
    return results, failed


def everything() -> list[Result]:
    """Every result that stands in the folder."""
    return [read(path) for path in sorted(FOLDER.glob("*.json"))]


def options(asked: argparse.Namespace) -> Options:
    chosen = Options(asked.size, asked.blocks, asked.threads, scale=asked.scale, only=asked.only)
    return replace(chosen, dtypes=asked.dtype) if asked.dtype else chosen


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    every = ", ".join(NAMES)
    made.add_argument("names", nargs="*", choices=[*NAMES, "all", []], metavar="NAME", help=f"some of {every}; none: all")
    made.add_argument("--size", choices=["3M", "50M"], help="parameters of the model, for one benchmark")
    made.add_argument("--full", action="store_true", help="50M parameters too, and bfloat16")
    made.add_argument("--blocks", type=int, default=3, help="blocks of each contender; medians and spreads are over these")
    made.add_argument("--threads", type=int, default=2, help="threads of a process that computes")
    made.add_argument("--dtype", nargs="+", default=[], choices=["float32", "bfloat16"])
    made.add_argument("--scale", type=float, default=1.0, help="share of the usual work in a block, to try a benchmark out")
    made.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts: grpo, ppo of trl; 10M, 100M, 400M of weights")
    return made


if __name__ == "__main__":
    sys.exit(main())
