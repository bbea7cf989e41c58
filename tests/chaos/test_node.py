"""Roles on two nodes of a cluster: weights travel over the network, and one of the nodes dies."""

import os
import subprocess
import sys

import pytest

from scale_rlhf.orchestration import ledger
from tests.chaos.faults import ROOT, Run, make_home

STEPS, BATCH = 40, 6


@pytest.fixture
def nodes():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    process = subprocess.Popen([sys.executable, "-m", "tests.chaos.two_nodes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, cwd=ROOT, env=environment)
    process.address = process.stdout.readline().strip()
    yield process
    process.stdin.close()
    process.wait(60)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_may_die(tmp_path, nodes):
    """Five processes that ask for half a CPU each do not fit on the head's one: some are on the node that dies."""
    run = Run(make_home(tmp_path), "nodes", f"ppo.steps={STEPS}", f"cluster.address={nodes.address}", "cluster.cpus=null",
              "overlap.max_staleness=1", "limits.start_seconds=200")
    try:
        run.until(lambda: len(run.steps()) >= 4)
        nodes.stdin.write("die\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "another"
        at = len(run.steps())
        assert at < STEPS - 5
        said = run.finish(600)
    finally:
        run.clean()
    assert "starts again" in said
    assert ledger.account(run.folder / "ppo", STEPS * BATCH)["trained"] == STEPS * BATCH
