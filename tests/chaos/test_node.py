"""Roles on several nodes of a cluster: weights travel over the network, and nodes die, or cannot be reached for a while."""

import os
import subprocess
import sys

import pytest
import yaml

from scale_rlhf.orchestration import ledger
from tests import hosts as namespaces
from tests.chaos.faults import BATCH, CONFIG, ROOT, STEPS, Run, lines, make_home, same_run
from tests.chaos.test_faults import DONE_AGAIN
from tests.hosts import PORT, Hosts

LONGER = 40  # steps


def on_nodes(home, **sections: dict) -> None:
    """nodes.yaml: the toy run on a cluster that is there, with some sections laid over it."""
    config = {key: dict(section) for key, section in CONFIG.items() if key != "cluster"}
    config |= {"model": {"path": str(home / "model")}}
    for name, section in sections.items():
        config[name] = config.get(name, {}) | section
    (home / "nodes.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def nodes():
    process = subprocess.Popen([sys.executable, "-m", "tests.chaos.two_nodes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    process.address = process.stdout.readline().strip()
    yield process
    process.stdin.close()
    process.wait(60)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_may_die(tmp_path, nodes):
    """Five processes that ask for half a CPU each do not fit on the head's one: some are on the node that dies."""
    home = make_home(tmp_path)
    on_nodes(home)
    settings = [f"ppo.steps={LONGER}", f"cluster.address={nodes.address}", "overlap.max_staleness=1", "overlap.score_group=16"]
    run = Run(home, "nodes", *settings, config="nodes.yaml")
    try:
        run.until(lambda: len(run.steps()) >= 4)
        nodes.stdin.write("die\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "another"
        at = len(run.steps())
        assert at < LONGER - 5
        said = run.finish(600)
    finally:
        run.clean()
    assert "starts again" in said
    assert ledger.account(run.folder / "ppo", LONGER * BATCH)["trained"] == LONGER * BATCH


class RunOnHost(Run):
    """`scale-rlhf run` on the first of several hosts."""

    def __init__(self, hosts: Hosts, home, name: str, *overrides: str):
        self.hosts = hosts
        super().__init__(home, name, *overrides, f"cluster.address={hosts.head.address}:{PORT}", config="nodes.yaml")

    def command(self) -> list[str]:
        return [*self.hosts.on(self.hosts.head.name, self.home), *super().command()]

    def environment(self) -> dict[str, str]:
        return self.hosts.environment


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(namespaces.missing() is not None, reason=f"no hosts can be made here: {namespaces.missing()}")
def test_hosts_lose_their_power_and_their_network(tmp_path, home, undisturbed):
    """Rollout, scoring and training on a host each. The first two fail in turn, and the result is that of one quiet host."""
    hosts = [(name, {"role": name}, 2) for name in ("training", "rollout", "scoring")]
    labels = {"policy": "training", "value": "training", "rollout": "rollout", "reward": "scoring", "reference": "scoring"}
    on_nodes(home, **{role: {"labels": {"role": host}} for role, host in labels.items()})
    deadlines = [f"limits.{name}_seconds=30" for name in ("generate", "score", "publish")] + ["recovery.answer_seconds=5"]
    with Hosts(hosts, tmp_path) as hosts:
        run = RunOnHost(hosts, home, "hosts", *deadlines)
        try:
            run.until(lambda: len(run.steps()) >= 3)
            hosts.power_off("rollout")
            hosts.boot("rollout")
            run.until(lambda: len(run.steps()) >= 7)
            hosts.unplug("scoring")
            run.until(lambda: "reference replica 0" in run.said)
            hosts.plug_in("scoring")
            said = run.finish(600)
        finally:
            run.clean()
    assert "rollout engine 0 starts again" in said
    same_run(run.folder, undisturbed, but=(*DONE_AGAIN, "weights/"))
    assert ledger.account(run.folder / "ppo", STEPS * BATCH)["trained"] == STEPS * BATCH


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(namespaces.missing() is not None, reason=f"no hosts can be made here: {namespaces.missing()}")
def test_engines_join_and_leave_with_hosts(tmp_path, home):
    """One engine; a host is switched on and there are two; it loses its power and there is one again."""
    hosts = [("training", {"role": "training"}, 3), ("rollout", {"role": "rollout"}, 1), ("more", {"role": "rollout"}, 1)]
    elastic = {"engines": {"min": 1, "max": 2}, "cpus": 1, "labels": {"role": "rollout"}}
    on_nodes(home, rollout=elastic, overlap={"max_staleness": 1})
    with Hosts(hosts, tmp_path, later=["more"]) as hosts:
        run = RunOnHost(hosts, home, "elastic", "ppo.steps=400", "checkpoint.save_every=50 steps")
        try:
            run.until(lambda: len(run.steps()) >= 3)
            hosts.boot("more")
            run.until(lambda: "rollout engine 1 has joined: 2 engines serve" in run.said)
            joined = len(run.steps())
            run.until(lambda: len(run.steps()) >= joined + 5)
            hosts.power_off("more")
            run.until(lambda: "rollout engine 1 left with its node" in run.said)
            left = len(run.steps())
            run.until(lambda: len(run.steps()) >= left + 5)
            engines = [line["rollout/engines"] for line in lines(run.folder / "metrics" / "ppo.jsonl")]
        finally:
            run.clean()
    assert engines[0] == 1 and 2 in engines and engines[-1] == 1
