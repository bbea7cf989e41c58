"""The runs of a comparison, in their order: the models of a seed, then each method from them, then its evaluation.

Every run is one of the normal command line, in a folder of its own. What is done is not done again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from scale_rlhf.config.changes import changes
from scale_rlhf.config.load import load_config
from scale_rlhf.errors import ConfigError
from scale_rlhf.orchestration.run_folder import RunFolder
from tests.comparison.methods import METHODS, Budget

_EVERY = ("cluster.dashboard=false", "evaluation.samples_shown=1")


@dataclass(frozen=True)
class Job:
    """One run. kind: what it takes about as long as: "models", a method, or "evaluation"."""

    name: str  # of the run
    kind: str
    seed: int
    folder: Path
    keys: tuple[str, ...]
    needs: tuple[str, ...] = ()  # runs whose models it takes

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def overrides(self) -> list[str]:
        """All of its key.path=value."""
        return [f"run.folder={self.folder}", f"run.name={self.name}", f"run.seed={self.seed}", f"data.practice.seed={self.seed}",
                *self.keys]

    def done(self) -> bool:
        """Whether it stands there and has no stage left."""
        return (self.path / "run.json").is_file() and not RunFolder.open(self.path).stages_left()

    def seconds(self) -> float:
        """That it took, once it is done."""
        return RunFolder.open(self.path).state()["seconds"]


def jobs(folder: Path, seeds: Sequence[int], methods: Sequence[str], budget: Budget, more: Sequence[str] = ()) -> list[Job]:
    """All runs, in the order in which they are made: whole seeds, one after another. more: key.path=value for all of them."""
    return [job for seed in seeds for job in _of_seed(folder, seed, methods, budget, more)]


def _of_seed(folder: Path, seed: int, methods: Sequence[str], budget: Budget, more: Sequence[str]) -> list[Job]:
    def job(name: str, kind: str, *keys: str, needs: tuple[str, ...] = ()) -> Job:
        return Job(name, kind, seed, folder, (*_EVERY, *more, *keys), needs)

    start = job(f"seed-{seed}", "models", "run.stages=[base,sft,reward]")
    sft, reward = (start.path / "models" / stage for stage in ("sft", "reward"))
    found = [start]
    for name in methods:
        method = METHODS[name]
        section = "policy" if method.stage == "ppo" else method.stage
        made = job(f"{start.name}-{name}", name, f"run.stages=[{method.stage}]", f"{section}.model={sft}",
                   f"reward.model={reward}", *method.keys(budget), needs=(start.name,))
        # Apart from the method's own run: every model is measured as a policy, at one temperature, whatever made it.
        judged = job(f"{made.name}-evaluation", "evaluation", "run.stages=[evaluate]", f"reference.model={sft}",
                     f"reward.model={reward}", f"policy.model={made.path / 'models' / method.stage}", needs=(made.name,))
        found += [made, judged]
    return found


def check_settings(config: Path, planned: Sequence[Job]) -> None:
    """Raises ConfigError where a run that stands in the folder was made with other settings than those asked for now."""
    for job in planned:
        wanted = load_config(config, job.overrides)  # of those to come too: a wrong key is found now
        if not (job.path / "run.json").is_file():
            continue
        if changed := changes(load_config(job.path / "config.yaml"), wanted):
            raise ConfigError(f"{job.path}: this run was made with other settings: {'; '.join(map(str, changed[:3]))}. Give the "
                              "same ones again, or another --folder")


def seconds_left(taken: Sequence[tuple[str, float]], to_come: Sequence[str]) -> float | None:
    """Of the jobs of these kinds. taken: (kind, seconds) of those that are done. None where nothing is known.

    A kind that has not been seen takes as long as the methods seen so far, or as anything.
    """
    if not taken:
        return None
    seen = {kind: mean(seconds for other, seconds in taken if other == kind) for kind, _ in taken}
    others = [seconds for kind, seconds in taken if kind in METHODS] or [seconds for _, seconds in taken]
    return sum(seen.get(kind, mean(others)) for kind in to_come)
