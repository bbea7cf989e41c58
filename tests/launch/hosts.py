"""Machines on one machine: network namespaces with a host name and an address each, on a bridge that nothing else is on."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

WHY_NOT = "needs root and iproute2, for hosts as network namespaces"


def possible() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


class Hosts:
    """node1, node2, … at 10.77.0.1, 10.77.0.2, …; close() ends every process on them."""

    def __init__(self, count: int):
        self.addresses = {f"node{number}": f"10.77.0.{number}" for number in range(1, count + 1)}
        self._mark = f"launch{os.getpid()}"
        self._switch = f"{self._mark}-switch"
        self._names = tempfile.NamedTemporaryFile("w", prefix="hosts-")  # noqa: SIM115 - /etc/hosts of each, until close()
        self._names.write("127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in self.addresses.items()))
        self._names.flush()
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name, address in self.addresses.items():
            self._plug(name, address)

    def _plug(self, name: str, address: str) -> None:
        space = self._space(name)
        _ip("netns", "add", space)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self._switch)
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")

    def on(self, name: str, *command: object) -> list[str]:
        """The command line that has `command` run on a host."""
        there = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
        inside = ["unshare", "--uts", "--mount", "sh", "-c", there]
        space = f"--net=/run/netns/{self._space(name)}"  # `ip netns exec` would hide the control groups too
        return ["nsenter", space, *inside, self._names.name, name, *map(str, command)]

    def start(self, name: str, *command: object, log: Path, environment: Mapping[str, str] | None = None,
              cwd: Path | None = None) -> subprocess.Popen:
        """Starts a process on a host; what it says goes to `log`."""
        with open(log, "a") as file:
            return subprocess.Popen(self.on(name, *command), stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=cwd)

    def call(self, name: str, *command: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """Runs a command on a host to its end, and returns what it said; AssertionError where it fails."""
        done = subprocess.run(self.on(name, *command), capture_output=True, text=True, timeout=60, env=environment, cwd=cwd)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def processes(self, name: str) -> Sequence[int]:
        """Of a host, all."""
        return [int(pid) for pid in _ip("netns", "pids", self._space(name)).split()]

    def close(self) -> None:
        for name in self.addresses:
            while pids := self.processes(name):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            _ip("netns", "del", self._space(name))
        _ip("netns", "del", self._switch)
        self._names.close()

    def _space(self, name: str) -> str:
        return f"{self._mark}-{name}"


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
