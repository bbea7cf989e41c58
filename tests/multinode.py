"""`make multinode`: the quickstart's PPO on three hosts, and on one; the same result, to the bit.

    training   Ray's head, the controller, policy and value
    rollout    the engine
    scoring    reward and reference

The hosts are network namespaces (tests/hosts.py). The run is submitted through Ray Jobs, and told by labels which role goes
where. In the middle the rollout host's cable is taken out, and put back a while later: the run goes on by itself. Stages before
PPO are run here first, or taken from a run that has them (--models).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests import hosts as namespaces
from tests.hosts import ROOT, Hosts

PROGRAM = [sys.executable, "-m", "scale_rlhf.cli"]
HOSTS = [("training", {"role": "training"}, 2), ("rollout", {"role": "rollout"}, 2), ("scoring", {"role": "scoring"}, 2)]
ROLES = {"policy": "training", "value": "training", "rollout": "rollout", "reward": "scoring", "reference": "scoring"}
DEADLINES = {"generate": 60, "score": 60, "publish": 60}
UNPLUGGED = 20.0  # seconds
LIMIT = 1800.0  # seconds for any run
SHOWN = {"reward/score_mean": "score", "kl/reference_mean": "KL", "policy/loss": "policy loss", "time/step": "seconds a step"}


def main() -> int:
    """Exit status 1 where the run did not end, or ended otherwise than on one host."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a run of the quickstart that has made its SFT and reward models")
    parser.add_argument("--steps", type=int, default=20, help="of PPO")
    options = parser.parse_args()
    if why := namespaces.missing():
        print(f"skipped: {why}")
        return 0
    with tempfile.TemporaryDirectory(prefix="multinode-") as place:
        folder = Path(place)
        models = (options.models or before_ppo(folder)).resolve()
        alone = on_one_host(folder, models, options.steps)
        spread, told = on_three_hosts(folder, models, options.steps)
        return show(alone, spread, told)


def settings(folder: Path, models: Path, name: str, steps: int) -> list[str]:
    """Overrides of both runs of PPO, which are the same run but for where they take place."""
    return [f"run.folder={folder}", f"run.name={name}", "run.stages=[ppo]", f"ppo.steps={steps}", "checkpoint.save_every=5 steps",
            *(f"{role}.model={models}/models/{model}" for role, model in (("policy", "sft"), ("reward", "reward")))]


def before_ppo(folder: Path) -> Path:
    say("base model, SFT and reward model, on this machine")
    ended(subprocess.Popen([*PROGRAM, "run", "configs/quickstart.yaml", f"run.folder={folder}", "run.name=models",
                            "run.stages=[base,sft,reward]"], cwd=ROOT))
    return folder / "models"


def on_one_host(folder: Path, models: Path, steps: int) -> Path:
    say("PPO on one host")
    ended(subprocess.Popen([*PROGRAM, "run", "configs/quickstart.yaml", *settings(folder, models, "one-host", steps)], cwd=ROOT))
    return folder / "one-host"


def on_three_hosts(folder: Path, models: Path, steps: int) -> tuple[Path, dict[str, float]]:
    """The run's folder, and seconds: from submission to the first step, and from the cable's return to the next one."""
    say("PPO on three hosts")
    run, told = folder / "three-hosts", {}
    with Hosts(HOSTS, folder) as hosts:
        placed = [f"{role}.labels.role={label}" for role, label in ROLES.items()]
        limits = [f"limits.{name}_seconds={seconds}" for name, seconds in DEADLINES.items()] + ["recovery.answer_seconds=10"]
        began = time.monotonic()
        job = hosts.start("training", *PROGRAM, "submit", "configs/quickstart.yaml",
                          *settings(folder, models, run.name, steps), *placed, *limits, log="submit.log")
        try:
            until(lambda: len(lines(run)) >= 1, job, folder)
            told["seconds from submission to the first step"] = time.monotonic() - began
            until(lambda: len(lines(run)) >= steps // 2, job, folder)
            say(f"the rollout host's cable is out for {UNPLUGGED:g} s, after step {len(lines(run))}")
            hosts.unplug("rollout")
            time.sleep(UNPLUGGED)
            hosts.plug_in("rollout")
            back, before = time.monotonic(), len(lines(run))
            until(lambda: len(lines(run)) > before + 1, job, folder)
            told["seconds from the cable's return to a new step"] = time.monotonic() - back
            ended(job, folder / "submit.log")
        finally:
            where = folder / "submit.log"
            print(where.read_text()[-3500:] if where.exists() else "nothing was said")
    return run, told


def show(alone: Path, spread: Path, told: dict[str, float]) -> int:
    one, three = lines(alone), lines(spread)
    table = Table(title="PPO on one host and on three")
    for column in ("last step", "one host", "three hosts"):
        table.add_column(column, justify="left" if column == "last step" else "right")
    for key, name in SHOWN.items():
        table.add_row(name, f"{one[-1][key]:.6g}", f"{three[-1][key]:.6g}")
    Console().print(table)
    for what, seconds in told.items():
        print(f"{what}: {seconds:.1f}")
    weights = [place / "models" / "ppo" / "model.safetensors" for place in (alone, spread)]
    same = weights[0].read_bytes() == weights[1].read_bytes() and samples(alone) == samples(spread)
    print("the same samples and the same weights, to the bit" if same else "NOT the same result")
    return 0 if same else 1


def lines(run: Path) -> list[dict]:
    path = run / "metrics" / "ppo.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def samples(run: Path) -> str:
    return (run / "ppo" / "samples.jsonl").read_text()


def until(done, job: subprocess.Popen, folder: Path) -> None:
    """Wait for it, while the job goes on."""
    end = time.monotonic() + LIMIT
    while not done():
        if job.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the run ended too early, or stands still; see what it said above, and {folder}")
        time.sleep(0.2)


def ended(process: subprocess.Popen, log: Path | None = None) -> None:
    if process.wait(LIMIT):
        where = f"; see {log}" if log else ""
        raise SystemExit(f"{str(process.args)[:200]} … ended with {process.returncode}{where}")


def say(line: str) -> None:
    print(f"\nmultinode: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
