"""python -m benchmarks [NAME …] [--size 3M] [--blocks 3]: run benchmarks, show their tables, write JSON and a page of plots."""

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.options import Options
from benchmarks.report import show, write_page
from benchmarks.result import FOLDER, Result, read

NAMES = ("controller", "rollout", "training", "weights", "overlap", "trl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a benchmark failed. A missed aim is no failure."""
    asked = parser().parse_args(arguments)
    names = list(NAMES) if asked.names in ([], ["all"]) else asked.names
    if len(names) == 1 and len(asked.size) == 1:
        results = [one(names[0], options(asked, asked.size[0]))]
        failed = []
    else:
        results, failed = several(names, asked)
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


def several(names: Sequence[str], asked: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Each in a process of its own, one after another, so that none inherits threads or memory of another."""
    results, failed = [], []
    jobs = [(name, size) for size in asked.size for name in names]
    for number, (name, size) in enumerate(jobs, 1):
        print(f"\n{name}, {size}: {number} of {len(jobs)}", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks", name, "--size", size, "--blocks", str(asked.blocks),
                   "--threads", str(asked.threads), "--scale", str(asked.scale), "--dtype", *asked.dtype]
        if subprocess.run(command, check=False).returncode:
            failed.append(f"{name}, {size}")
        else:
            results.append(read(FOLDER / f"{name}-{size}.json"))
    return results, failed


def everything() -> list[Result]:
    """Every result that stands in the folder."""
    return [read(path) for path in sorted(FOLDER.glob("*.json"))]


def options(asked: argparse.Namespace, size: str) -> Options:
    chosen = Options(size, asked.blocks, asked.threads, scale=asked.scale, only=asked.only)
    return replace(chosen, dtypes=asked.dtype) if asked.dtype else chosen


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("names", nargs="*", choices=[*NAMES, "all", []], metavar="NAME", help=f"all, or some of {', '.join(NAMES)}")
    made.add_argument("--size", nargs="+", default=["3M"], choices=["3M", "50M"], help="parameters of the model")
    made.add_argument("--blocks", type=int, default=3, help="blocks of each contender; medians and spreads are over these")
    made.add_argument("--threads", type=int, default=2, help="threads of a process that computes")
    made.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    made.add_argument("--scale", type=float, default=1.0, help="share of the usual work in a block, to try a benchmark out")
    made.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts of a benchmark")
    return made


if __name__ == "__main__":
    sys.exit(main())
