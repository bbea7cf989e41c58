"""A real Slurm: munged, slurmctld and a slurmd on each of some hosts; its first host is also the one that jobs are given at."""

import shutil
import subprocess
import time
from collections.abc import Callable
from os import environ
from pathlib import Path

from tests.launch.hosts import Hosts

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
WHY_NOT = "Slurm is not installed (Debian: slurm-wlm, munge)"
CONF = """
ClusterName=launch
SlurmctldHost={first}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=5,sched_min_interval=1000
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""
# cred_expire: a job that is queued again waits for so long. Slurm asks for heterogeneous jobs in every bf_interval.
NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} Gres=gpu:8 State=UNKNOWN\n"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def installed() -> bool:
    return all(shutil.which(program, path=f"{environ['PATH']}:/usr/sbin") for program in PROGRAMS)


class Slurm:
    """cpus: of each host. environment: of jobs, besides that of this process.

    The GPUs that Slurm says nodes have are empty files.
    """

    def __init__(self, folder: Path, cpus: list[int], **environment: str):
        self.folder, self.hosts = folder, Hosts(len(cpus))
        self.first, address = next(iter(self.hosts.addresses.items()))
        more = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{environ['PATH']}:/usr/sbin"}
        self.environment = environ | environment | more
        self._daemons = []
        (folder / "state").mkdir()
        nodes = [NODE.format(name=name, address=at, cpus=count)
                 for (name, at), count in zip(self.hosts.addresses.items(), cpus, strict=True)]
        (folder / "slurm.conf").write_text(CONF.format(first=self.first, address=address, folder=folder) + "".join(nodes))
        for number in range(8):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
        try:
            self._start(cpus)
        except BaseException:
            self.close()
            raise

    def _start(self, cpus: list[int]) -> None:
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True, env=self.environment)
        files = [f"--{name}-file={self.folder / f'munge.{name}'}" for name in ("pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}", *files)
        self.until(socket.exists, 20)
        self._daemon("slurmctld", "-D")
        for name in self.hosts.addresses:
            self._daemon("slurmd", "-D", "-N", name, host=name)
        self.until(lambda: self.call("sinfo", "--noheader", "--format=%T %D").split() == ["idle", str(len(cpus))], 60)

    def _daemon(self, *command: str, host: str | None = None) -> None:
        log = self.folder / f"{command[0]}.said"
        self._daemons.append(self.hosts.start(host or self.first, *command, log=log, environment=self.environment))

    def call(self, *command: object, cwd: Path | None = None) -> str:
        """A command of Slurm's, on the first host."""
        return self.hosts.call(self.first, *command, environment=self.environment, cwd=cwd)

    def submit(self, *arguments: object, cwd: Path) -> str:
        """The number of the job that sbatch made."""
        return self.call("sbatch", "--parsable", *arguments, cwd=cwd).strip()

    def job(self, number: str) -> dict[str, str]:
        """What scontrol says of a job, such as JobState, Restarts, ExitCode."""
        words = self.call("scontrol", "show", "job", "--oneliner", number).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, number: str) -> bool:
        """Whether a job has ended. A change of the queue has Slurm look at it: of an idle one it does not think by itself."""
        job = self.job(number)
        if job["JobState"] == "PENDING":
            self.call("scontrol", "update", f"JobId={number}", "Comment=waiting")
        return job["JobState"] in ENDED

    def until(self, done: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            dead = [daemon.args[-1] for daemon in self._daemons if daemon.poll() is not None]
            assert time.monotonic() < end and not dead, f"{dead} {self.said()}"
            time.sleep(0.5)

    def said(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        self.hosts.close()
        for daemon in self._daemons:
            daemon.wait(10)
