"""Roles on two nodes of a cluster: weights travel over the network, and one of the nodes dies."""

import os
import subprocess
import sys

import pytest
import yaml

from scale_rlhf.orchestration import ledger
from tests.chaos.faults import CONFIG, ROOT, Run, make_home

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
    home = make_home(tmp_path)
    config = {key: section for key, section in CONFIG.items() if key != "cluster"} | {"model": {"path": str(home / "model")}}
    (home / "nodes.yaml").write_text(yaml.safe_dump(config))
    settings = [f"ppo.steps={STEPS}", f"cluster.address={nodes.address}", "overlap.max_staleness=1", "overlap.score_group=16"]
    run = Run(home, "nodes", *settings, config="nodes.yaml")
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
