"""`make compare`: all methods on the practice world, from the same SFT and reward models, with the same number of samples.

    seed N ─► base, SFT, reward model ─┬─► method ─► evaluation ─┬─► one table: mean and deviation over the seeds
                                       └─► …                     ─┘

Each run goes through the normal command line, and stands in a folder of its own in --folder (its log beside it). Stopped and
begun again, it goes on where it was; with further seeds or methods, it adds those.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console

from scale_rlhf.errors import UserError
from tests.comparison import table
from tests.comparison.jobs import Job, check_settings, jobs, seconds_left
from tests.comparison.methods import METHODS, Budget

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a run failed (others are made all the same), 2 where there is something to mend, 130 after Ctrl-C."""
    asked = parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        budget = Budget(asked.steps, asked.samples, asked.group)
        planned = jobs(asked.folder.absolute(), range(asked.seeds), asked.methods, budget, asked.overrides)
        check_settings(asked.config, planned)
    except (UserError, ValueError) as error:
        console.print(f"compare: {error}", markup=False, soft_wrap=True)
        return 2
    try:
        failed = run(asked.config, planned, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return 130
    found = results(planned)
    if found:
        about = (f"{asked.seeds} seed(s) of {asked.config.name}; {budget.total:,} samples for each method "
                 f"({budget.steps} steps of {budget.samples}, groups of {budget.group}). Mean ± standard deviation over seeds; "
                 "win rate and KL against SFT; seconds of the training stage alone.")
        table.show(found, about, console)
        settings = asdict(budget) | {"config": asked.config.name, "overrides": asked.overrides}
        table.write(found, about, settings, asked.folder)
        console.print(f"{asked.folder}/comparison.md, comparison.json", soft_wrap=True)
    for job in failed:
        why = f"its last words are in {log(job)}" if log(job).is_file() else f"it needs {' and '.join(job.needs)}"
        console.print(f"failed: {job.name}; {why}", markup=False, soft_wrap=True)
    return 1 if failed else 0


def run(config: Path, planned: Sequence[Job], console: Console) -> list[Job]:
    """Make every run that is not done; returns those that failed. What needs one of them is left out."""
    taken, failed = [(job.kind, job.seconds()) for job in planned if job.done()], []
    left = [job for job in planned if not job.done()]
    if len(left) < len(planned):
        console.print(f"{len(planned) - len(left)} of {len(planned)} runs are done already")
    for place, job in enumerate(left):
        if {*job.needs} & {other.name for other in failed}:
            failed.append(job)
            continue
        wanted = seconds_left(taken, [other.kind for other in left[place:]])
        about = "" if wanted is None else f", about {wanted / 60:.0f} min left"
        with console.status(line := f"{len(planned) - len(left) + place + 1}/{len(planned)} {job.name}{about}"):
            if not console.is_terminal:
                console.print(line, soft_wrap=True)
            if _make(config, job):
                taken.append((job.kind, job.seconds()))
            else:
                failed.append(job)
    return failed


def _make(config: Path, job: Job) -> bool:
    """One run, begun or gone on with; what it says goes to its log."""
    job.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "scale_rlhf.cli", "run", str(config), *job.overrides, "--go-on"]
    with log(job).open("a") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        try:
            return process.wait() == 0
        except KeyboardInterrupt:  # it cleans up after itself, and can go on later
            process.terminate()
            process.wait()
            raise


def log(job: Job) -> Path:
    return job.folder / f"{job.name}.log"


def results(planned: Sequence[Job]) -> list[table.Measured]:
    """Of every evaluation that is done."""
    made = {job.name: job for job in planned}
    found = []
    for job in planned:
        if job.kind == "evaluation" and job.done():
            method = made[job.name.removesuffix("-evaluation")]
            found += table.measured(method.kind, job.seed, method.path, job.path)
    return found


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="make compare ARGS=…", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("overrides", nargs="*", metavar="KEY.PATH=VALUE", help="for every run")
    made.add_argument("--methods", type=_methods, default=list(METHODS), metavar="NAME,…", help=f"of {', '.join(METHODS)}; all")
    made.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (3)")
    made.add_argument("--steps", type=int, default=Budget.steps, help=f"updates of the methods that loop ({Budget.steps})")
    made.add_argument("--samples", type=int, default=Budget.samples, help=f"responses of each step ({Budget.samples})")
    made.add_argument("--group", type=int, default=Budget.group, help=f"responses to a prompt that are compared ({Budget.group})")
    made.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    made.add_argument("--folder", type=Path, default=ROOT / "runs" / "comparison")
    return made


def _methods(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in METHODS:
            near = get_close_matches(name, METHODS, n=1)
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(METHODS)}; found {name!r}"
                                             + (f"; did you mean {near[0]}?" if near else ""))
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
