"""The batch scripts on a real Slurm: two hosts as network namespaces, Ray on both, a tiny PPO run across them."""

import json
from pathlib import Path

import pytest

from scale_rlhf.orchestration import ledger
from tests.launch import hosts, lab, slurm

SCRIPTS = Path("launch/slurm")
pytestmark = [
    pytest.mark.long, pytest.mark.timeout(900),
    pytest.mark.skipif(not slurm.installed(), reason=slurm.WHY_NOT),
    pytest.mark.skipif(not hosts.possible(), reason=hosts.WHY_NOT),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return lab.make_lab(tmp_path_factory.mktemp("lab")).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, home):
    made = slurm.Slurm(tmp_path_factory.mktemp("slurm"), lab.CPUS, **lab.environment(home))
    yield made
    made.close()


class Job:
    """sbatch SCRIPT lab.yaml run.name=NAME, from the project's folder."""

    def __init__(self, cluster: slurm.Slurm, home: Path, name: str, script: Path):
        self.cluster, self.run, self.log = cluster, home / name, home / f"{name}.log"
        settings = [home / "lab.yaml", f"run.folder={home}", f"run.name={name}"]
        self.number = cluster.submit(f"--output={self.log}", script, *settings, cwd=lab.ROOT)

    def until_step(self, step: int) -> None:
        self.cluster.until(lambda: self._alive() and len(lab.steps(self.run)) >= step, 400)

    def _alive(self) -> bool:
        assert not self.cluster.ended(self.number), self.said
        return True

    def finish(self) -> dict[str, str]:
        """What Slurm says of it at its end, which is a good one: all trained, nothing left of Ray."""
        self.cluster.until(lambda: self.cluster.ended(self.number), 400)
        job = self.cluster.job(self.number)
        assert job["JobState"] == "COMPLETED", self.said
        assert ledger.account(self.run / "ppo", lab.SAMPLES)["trained"] == lab.SAMPLES
        assert lab.steps(self.run) == list(range(1, lab.STEPS + 1))
        self.cluster.until(lambda: not lab.of_ray(self.cluster.hosts), 30)
        return job

    @property
    def said(self) -> str:
        return self.log.read_text()[-5000:] if self.log.exists() else "nothing"


def test_a_job_runs_to_its_end(cluster, home):
    job = Job(cluster, home, "whole", SCRIPTS / "run.sbatch")
    assert job.finish()["Restarts"] == "0"
    assert "Ray's nodes: 10.77.0.1, 10.77.0.2\n" in job.log.read_text()
    assert (home / "token").stat().st_mode & 0o777 == 0o600


def test_a_job_that_is_queued_again_goes_on_with_its_run(cluster, home):
    """As after preemption: Slurm ends all processes in the middle, and starts the job again."""
    job = Job(cluster, home, "requeued", SCRIPTS / "run.sbatch")
    job.until_step(5)
    cluster.call("scontrol", "requeue", job.number)
    assert job.finish()["Restarts"] == "1"
    assert len(json.loads((job.run / "run.json").read_text())["resumed"]) == 1
    assert not (home / "requeued-2").exists()


def test_two_kinds_of_nodes_and_a_time_limit(cluster, home):
    """One node of each role. The signal is what Slurm sends before the time limit; the script has itself queued again."""
    script = home / "roles.sbatch"
    text = (lab.ROOT / SCRIPTS / "roles.sbatch").read_text()
    script.write_text(text.replace("--nodes=2", "--nodes=1").replace("--nodes=4", "--nodes=1"))
    job = Job(cluster, home, "roles", script)
    job.until_step(5)
    cluster.call("scancel", "--batch", "--signal=USR1", job.number)
    assert job.finish()["Restarts"] == "1"
    said = job.log.read_text()
    assert said.count(" (training)") == said.count(" (rollout)") == 2
    assert f"stopped; go on with: scale-rlhf resume {job.run}" in said
