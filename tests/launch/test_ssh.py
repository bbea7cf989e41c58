"""launch/ssh/run.sh: two hosts as network namespaces with a real sshd, Ray on both; afterwards nothing of it is left."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scale_rlhf.orchestration import ledger
from tests.launch import hosts, lab

pytestmark = [
    pytest.mark.long, pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin"), reason="sshd is not installed (Debian: openssh-server)"),
    pytest.mark.skipif(not hosts.possible(), reason=hosts.WHY_NOT),
]


@pytest.fixture(scope="module")
def machines():
    made = hosts.Hosts(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory, machines) -> Path:
    """With a run, the hosts' file, keys, and an sshd on the second host."""
    home = lab.make_lab(tmp_path_factory.mktemp("lab")).parent
    (home / "hosts").write_text("# the first is where it is called\n10.77.0.1 training\n\n10.77.0.2 rollout\n")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
    variables = " ".join(f'{name}="{value}"' for name, value in lab.environment(home).items() if name != "RAY_AUTH_TOKEN_PATH")
    (home / "sshd_config").write_text(f"HostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\nStrictModes no\nUsePAM no\n"
                                      f"PidFile none\nListenAddress 10.77.0.2\nSetEnv {variables}\n")
    (home / "ssh_config").write_text(f"IdentityFile {home}/user\nUserKnownHostsFile {home}/known\n"
                                     "StrictHostKeyChecking accept-new\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    machines.start("node2", "/usr/sbin/sshd", "-D", "-f", home / "sshd_config", log=home / "sshd.log")
    return home


class Script:
    """run.sh, called on the first host."""

    def __init__(self, machines: hosts.Hosts, home: Path, name: str, machines_file: str = "hosts", **more: str):
        self.run, self.log = home / name, home / f"{name}.log"
        environment = os.environ | lab.environment(home) | {"SSH_CONFIG": str(home / "ssh_config")} | more
        settings = [home / "lab.yaml", f"run.folder={home}", f"run.name={name}"]
        command = ["launch/ssh/run.sh", home / machines_file, *settings]
        self.process = machines.start("node1", *command, log=self.log, environment=environment, cwd=lab.ROOT)

    def until(self, done, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.log.read_text()[-5000:]
            time.sleep(0.5)


def test_a_run_over_two_machines(machines, home):
    script = Script(machines, home, "whole")
    script.until(lambda: script.process.poll() is not None, 400)
    said = script.log.read_text()
    assert script.process.returncode == 0, said[-5000:]
    assert "Ray's nodes: 10.77.0.1 (training), 10.77.0.2 (rollout)\n" in said
    assert ledger.account(script.run / "ppo", lab.SAMPLES)["trained"] == lab.SAMPLES
    script.until(lambda: not lab.of_ray(machines), 30)  # the dashboard's helpers see that it is gone, and go


def test_a_machine_that_does_not_come_is_missed(machines, home):
    (home / "one more").write_text((home / "hosts").read_text() + "10.77.0.9\n")
    script = Script(machines, home, "missed", "one more", READY_SECONDS="40")
    script.until(lambda: script.process.poll() is not None, 150)
    assert "2 of 3 nodes have joined within 40 s: 10.77.0.1 (training), 10.77.0.2 (rollout)" in script.log.read_text()
    assert script.process.returncode != 0 and not script.run.exists()
    script.until(lambda: not lab.of_ray(machines), 30)  # the dashboard's helpers see that it is gone, and go


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "sigkill"])
def test_whatever_ends_the_script_ends_ray_everywhere(machines, home, number):
    name = number.name.lower()
    script = Script(machines, home, name)
    script.until(lambda: script.run.is_dir(), 200)  # the run has begun
    script.process.send_signal(number)
    script.until(lambda: not lab.of_ray(machines), 150)
    assert script.process.wait(10) != 0
