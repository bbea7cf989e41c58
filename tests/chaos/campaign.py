"""`make chaos N=20 SEED=1`: whole runs under random faults of random roles at random times; a table of what they came to.

    kill    SIGKILL: the process is gone
    stop    SIGSTOP: it is there and does not answer
    slow    SIGSTOP, and SIGCONT after two seconds

The controller is not stopped: nobody would be left to say so. Each run ends, or counts as not survived; every sample must have
been trained exactly once.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scale_rlhf.orchestration import ledger
from tests.chaos.faults import TITLES, Run, lines, make_home

STEPS, BATCH = 24, 6
SLOW_SECONDS = 2.0
FAULTS = [(role, kind) for role in TITLES for kind in ("kill", "stop", "slow") if (role, kind) != ("controller", "stop")]
DEADLINES = ("limits.generate_seconds=20", "limits.score_seconds=20", "limits.update_seconds=40", "limits.publish_seconds=40",
             "recovery.answer_seconds=4", "reward.timeout_seconds=10")


@dataclass
class Tally:
    """Of one fault."""

    injected: int = 0
    survived: int = 0
    seconds: list[float] = field(default_factory=list)  # from the fault to the next step that was not there before
    lost: int = 0
    twice: int = 0


def one_run(home: Path, number: int, chance: random.Random, tallies: dict[str, Tally]) -> str:
    """A run with one to three faults. Returns what to say of it."""
    staleness, faults = chance.choice([0, 1, 2]), [chance.choice(FAULTS) for _ in range(chance.randint(1, 3))]
    settings = [f"ppo.steps={STEPS}", f"overlap.max_staleness={staleness}", f"rollout.engines={chance.choice([1, 2])}",
                f"policy.workers={chance.choice([1, 2])}",
                f"run.seed={number}", "recovery.restarts=20", *DEADLINES]
    times = sorted(chance.sample(range(1, STEPS - 6), len(faults)))
    run, told = Run(home, f"run-{number}", *settings), []
    try:
        for (role, kind), at in zip(faults, times, strict=True):
            name = f"{kind} {role}"
            told.append(f"{name} at {at}")
            tallies[name].injected += 1
            run.until(lambda at=at: max(run.steps(), default=0) >= at, 400)
            seconds = inject(run, role, kind, staleness)
            tallies[name].seconds.append(seconds)
            tallies[name].survived += 1
        run.finish(600)
    except Exception as error:  # noqa: BLE001 - a run that did not survive is a row of the table
        told.append(f"NOT SURVIVED: {str(error)[-600:]}")
    finally:
        run.clean()
    lost, twice = accounts(run)
    for role, kind in faults:
        tallies[f"{kind} {role}"].lost += lost
        tallies[f"{kind} {role}"].twice += twice
    return f"run {number}, staleness {staleness}: {', '.join(told)}; {lost} lost, {twice} trained twice"


def inject(run: Run, role: str, kind: str, staleness: int) -> float:
    """The fault, and the seconds until the run has made a step that it had not made before."""
    began, before = time.monotonic(), max(run.steps())
    if kind == "slow":
        process = run.send(role, signal.SIGSTOP)
        time.sleep(SLOW_SECONDS)
        process.send_signal(signal.SIGCONT)
    else:
        run.send(role, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    # What was on its way when it happened comes all the same: it has recovered when more than that has come.
    run.until(lambda: max(run.steps(), default=0) > before + staleness + 1, 400)
    return time.monotonic() - began


def accounts(run: Run) -> tuple[int, int]:
    """(samples lost, samples trained twice) of a run that has ended."""
    trained = [line["index"] for line in lines(run.folder / "ppo" / ledger.TRAINED)]
    return max(STEPS * BATCH - len(set(trained)), 0), len(trained) - len(set(trained))


def campaign(runs: int, seed: int, home: Path) -> dict[str, Tally]:
    """All runs, one after the other; a line each."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    make_home(home)
    for number in range(runs):
        print(one_run(home, number, random.Random(f"{seed}-{number}"), tallies), flush=True)
    return tallies


def show(tallies: dict[str, Tally]) -> None:
    table = Table(title="faults")
    for column in ("fault", "injected", "survived", "recovery, median", "worst", "lost", "trained twice"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for name, tally in sorted(tallies.items()):
        median, worst = (f"{f(tally.seconds):.1f} s" if tally.seconds else "" for f in (statistics.median, max))
        table.add_row(name, str(tally.injected), str(tally.survived), median, worst, str(tally.lost), str(tally.twice))
    Console(width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as home:
        tallies = campaign(options.runs, options.seed, Path(home))
    show(tallies)
    if options.out:
        options.out.write_text(json.dumps({name: vars(tally) for name, tally in tallies.items()}, indent=2) + "\n")
    return 0 if all(one.survived == one.injected and not one.lost + one.twice for one in tallies.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
