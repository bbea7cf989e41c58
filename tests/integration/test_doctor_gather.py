"""Facts of this machine for real, and of nodes that answer badly, late or not at all."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from scale_rlhf.doctor import gather, on_node
from scale_rlhf.doctor.findings import findings
from scale_rlhf.doctor.probe import SCRIPT, Problem, ThisMachine, _distinct, probe_class, script_result


class Several(ThisMachine):
    """This machine as several nodes of a cluster. ailing: {node: {method: answer}}."""

    def __init__(self, count, ailing=None):
        super().__init__(count)
        self.names = {node: f"node-{node}" for node in self.names}
        self.alive = {node: {"Resources": {"CPU": 4.0}} for node in self.names}
        self.dead, self.ailing = ["node-9"], ailing or {}

    def call(self, method, arguments, seconds):
        ill = {node: self.ailing[node][method] for node in arguments if method in self.ailing.get(node, {})}
        return super().call(method, {node: words for node, words in arguments.items() if node not in ill}, seconds) | ill


@pytest.fixture
def quick(monkeypatch):
    """The collective is another test's; with Ray's mode of tokens."""
    monkeypatch.setattr(gather, "_collective", lambda *_: [])
    monkeypatch.setattr(gather, "_asks_for_token", lambda: True)


def test_nodes_that_answer(tmp_path, quick):
    facts = gather._of_nodes(Several(3), str(tmp_path / "runs"))
    assert [node.name for node in facts.nodes] == ["node-0", "node-1", "node-2"]
    one = facts.nodes[0]
    assert one.python == ".".join(map(str, sys.version_info[:3])) and one.cpus == 4
    assert abs(one.clock) < 0.1 and one.memory.free < one.memory.total
    assert {node.run_folder for node in facts.nodes} == {""} and list(tmp_path.iterdir()) == []
    assert [(link.source, link.target) for link in facts.links] == [
        ("node-0", "node-1"), ("node-1", "node-2"), ("node-2", "node-0")]
    assert all(link.problem is None and link.bandwidth > 1e7 and 0 < link.latency < 1 for link in facts.links)
    assert facts.dead == ["node-9"]


def test_who_does_not_answer_is_a_fact(tmp_path, quick):
    late = Problem("no answer within 60 s")
    facts = gather._of_nodes(Several(3, {"1": {"now": late}, "2": {"run": ("", "MemoryError")}}), None)
    assert [node.name for node in facts.nodes] == ["node-0"]
    assert facts.silent == {"node-1": "no answer within 60 s", "node-2": "MemoryError"} and facts.links == []
    assert sum("does not answer" in one.found for one in findings(facts)) == 2


def test_a_port_that_is_closed(quick):
    facts = gather._of_nodes(Several(2, {"1": {"start": "99999\n"}}), None)
    assert "node-0" == facts.links[0].source and facts.links[0].problem and facts.links[1].problem is None


def test_a_folder_that_other_nodes_do_not_see(tmp_path, quick, monkeypatch):
    @contextmanager
    def elsewhere(folder):
        yield {"path": f"{folder}/x", "text": "y"}, None

    monkeypatch.setattr(gather, "_file_to_see", elsewhere)
    facts = gather._of_nodes(Several(2), str(tmp_path / "elsewhere"))
    assert "No such file" in facts.nodes[0].run_folder
    assert any("is not seen there" in one.found for one in findings(facts))


def test_clocks_are_compared_by_the_shortest_way(monkeypatch):
    nodes = Several(1)
    monkeypatch.setattr(nodes, "call", lambda method, arguments, seconds: {"0": time.time() + 5})
    ahead, error = gather._clock(nodes, "0")
    assert ahead == pytest.approx(5, abs=0.1) and error < 0.1


def test_this_machine(tmp_path):
    """With a collective between two processes."""
    facts = gather.of_this_machine(str(tmp_path))
    assert [(one.backend, one.problem) for one in facts.collectives if one.backend == "gloo"] == [("gloo", None)] * 2
    assert facts.nodes[0].cpus >= 1 and str(tmp_path) in facts.nodes[0].disks


def test_a_collective_that_cannot_meet_says_so(monkeypatch):
    monkeypatch.setattr(gather, "COLLECTIVE", 6.0)
    nodes = Several(2, {"0": {"start": "1\n", "finish": ("", "Killed")}})  # where nobody listens
    found = gather._collective(nodes, "gloo", ["0", "1"])
    assert all(one.problem for one in found) and len(found) == 2


def test_a_script_that_hangs_or_dies_is_ended():
    probe = probe_class()()
    start = time.monotonic()
    assert script_result(probe.run("import time; time.sleep(60)", [], 0.5)) == {"problem": "not done within 0.5 s"}
    assert script_result(probe.run("import sys; sys.exit('no')", [], 20)) == {"problem": "no"}
    assert time.monotonic() - start < 20
    waiting = subprocess.run([sys.executable, SCRIPT, "serve", '["127.0.0.1"]', "0.5"], capture_output=True, timeout=20)
    assert waiting.returncode == -14  # SIGALRM, of its own


def test_the_script_needs_no_package_of_ours():
    code = "import sys; sys.modules['scale_rlhf'] = None\n" + SCRIPT.read_text()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-I", "-c", code, "facts", '[{"disks": [], "seen": null}]', "30"], capture_output=True,
                          text=True, env=environment, cwd="/")
    assert '"code": null' in done.stdout, done.stderr


def test_what_nvidia_smi_says(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.86.15, 143771, 143000'\necho 'NVIDIA H200, 570.86.15, [N/A], [N/A]'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = on_node._gpus()
    assert found["gpu_problem"] is None and found["gpus"][0] == {
        "name": "NVIDIA H200", "driver": "570.86.15", "total": 143771 << 20, "free": 143000 << 20}
    assert found["gpus"][1]["total"] == 0
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    assert "version mismatch" in on_node._gpus()["gpu_problem"]


def test_nodes_of_one_address_are_told_apart():
    assert _distinct({"aaaaaaa1": "10.0.0.1", "bbbbbbb2": "10.0.0.1", "c": "10.0.0.2"}) == {
        "aaaaaaa1": "10.0.0.1 (aaaaaa)", "bbbbbbb2": "10.0.0.1 (bbbbbb)", "c": "10.0.0.2"}


def test_a_container_limits_memory(monkeypatch):
    monkeypatch.setattr(on_node, "_cgroup_memory", lambda: (2e9, 1e9))
    found = on_node.facts({"disks": [], "seen": None})
    assert found["memory"] == {"total": 2e9, "free": 1e9}
