"""Several hosts on this machine: network namespaces with addresses of their own, joined by a switch.

Each also has processes, a host name and shared memory of its own, as a machine has; files are those of this machine, as on a
cluster with a shared file system. Needs root and iproute2. Nothing leaves the namespaces.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
NETWORK = "10.77.0"
PORT = 6379  # of Ray's head
# Its own shared memory and Ray folder, and then whatever it is told to run: its first process, with which all others end.
_BOOT = """hostname {name}; ip link set lo up; mkdir -p /tmp/ray
mount -t tmpfs -o size=2g tmpfs /dev/shm; mount -t tmpfs -o size=1g tmpfs /tmp/ray
echo up; exec sleep infinity"""


def missing() -> str | None:
    """Why there can be no hosts here; None where there can."""
    tools = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} not installed (iproute2, util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    made = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if made.returncode == 0 else "this machine makes no namespaces: " + made.stderr.decode().strip()


@dataclass
class Host:
    name: str
    number: int
    labels: Mapping[str, str]
    cpus: int
    first: subprocess.Popen | None = None  # unshare, above the host's first process
    pid: int = 0  # of that first process, as this machine counts
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"


class Hosts:
    """A switch and the hosts on it. The first is Ray's head; those that are on are in the cluster when the block is entered."""

    def __init__(self, hosts: Sequence[tuple[str, Mapping[str, str], int]], folder: Path, later: Sequence[str] = ()):
        """hosts: (name, Ray's labels, CPUs) of each. folder: for logs. later: names of those that are off at first."""
        self.later = later
        self.tag, self.folder = f"r{os.getpid()}", folder
        self.hosts = {name: Host(name, number, labels, cpus) for number, (name, labels, cpus) in enumerate(hosts, 1)}
        self.head = next(iter(self.hosts.values()))
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Without what this process has told Ray: that it stays on loopback.
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = mine | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
                                   "RAY_USAGE_STATS_ENABLED": "0", "PATH": programs}
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        # Said aloud: a node that joins does not find out by itself that the cluster asks for a token.
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}

    def __enter__(self) -> "Hosts":
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            for name in (name for name in self.hosts if name not in self.later):
                self.boot(name)
            self.wait(len(self.hosts) - len(self.later))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for host in self.hosts.values():
            self.power_off(host.name)
        subprocess.run(["ip", "netns", "del", self._switch], capture_output=True, check=False)

    @property
    def _switch(self) -> str:
        return f"{self.tag}-switch"

    def boot(self, name: str) -> None:
        """Switch a host on, plug it in, and have it join the cluster; again, whenever Ray ends there."""
        host = self.hosts[name]
        command = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec",
                   _BOOT.format(name=name)]
        host.first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert host.first.stdout.readline() == "up\n"
        (host.pid,) = map(int, Path(f"/proc/{host.first.pid}/task/{host.first.pid}/children").read_text().split())
        port = f"port{host.number}"
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        self.run(name, "ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        self.run(name, "ip", "link", "set", "eth0", "up")
        host.started = [self.start(name, "sh", "-c", f"while true; do {self._ray(host)}; sleep 1; done", log=f"ray-{name}.log")]

    def power_off(self, name: str) -> None:
        """As when the current fails: every process of the host is gone at once."""
        host = self.hosts[name]
        if host.first is None:
            return
        host.first.kill()  # and with it, by --kill-child, the host's first process, and so all of them
        host.first.wait()
        for process in host.started:
            process.wait(30)
        subprocess.run(["ip", "-n", self._switch, "link", "del", f"port{host.number}"], capture_output=True, check=False)
        host.first, host.started = None, []

    def unplug(self, name: str) -> None:
        """Take the cable out: the host runs on, and nobody reaches it."""
        _ip("-n", self._switch, "link", "set", f"port{self.hosts[name].number}", "down")

    def plug_in(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", f"port{self.hosts[name].number}", "up")

    def start(self, name: str, *command: str, log: str) -> subprocess.Popen:
        """A program on a host, whose output goes to a file in the folder."""
        with (self.folder / log).open("a") as file:
            return subprocess.Popen([*self.on(name), *command], stdout=file, stderr=file, env=self.environment)

    def run(self, name: str, *command: str, seconds: float = 60.0) -> str:
        """A program on a host, to its end; what it printed."""
        done = subprocess.run([*self.on(name), *command], capture_output=True, text=True, timeout=seconds, env=self.environment,
                              check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def wait(self, count: int, seconds: float = 120.0) -> None:
        """Until so many hosts are in the cluster."""
        look = "import ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR'); " \
               "print(sum(node['Alive'] for node in ray.nodes()))"
        until = time.monotonic() + seconds
        while True:
            try:
                if int(self.run(self.head.name, sys.executable, "-c", look).split()[-1]) == count:
                    return
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failure = error
            else:
                failure = None
            if time.monotonic() > until:
                raise RuntimeError(f"{count} hosts are not in the cluster after {seconds:g} s: see {self.folder}") from failure
            time.sleep(1.0)

    def on(self, name: str, folder: Path = ROOT) -> list[str]:
        """What stands before a command that shall run on a host, in that folder."""
        into = ["nsenter", "--target", str(self.hosts[name].pid), "--net", "--mount", "--uts", "--pid"]
        return [*into, "--", "env", "-C", str(folder)]

    def _ray(self, host: Host) -> str:
        joins = f"--address={self.head.address}:{PORT}"
        where = f"--head --port={PORT} --dashboard-host=127.0.0.1" if host is self.head else joins
        labels = ",".join(f"{key}={value}" for key, value in host.labels.items())
        return (f"ray start --block --node-ip-address={host.address} {where} --num-cpus={host.cpus} "
                f"--object-store-memory=200000000 --disable-usage-stats" + (f" --labels={labels}" if labels else ""))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def kill(process: subprocess.Popen) -> None:
    """End a program that `Hosts.start` began on a host: nsenter hands no signal on."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    process.kill()
    process.wait()
