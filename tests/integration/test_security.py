"""What a cluster of ours is open to: no port but on loopback, nothing for who has no token. In a process of its own."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = '''
import json, os, socket, stat, subprocess, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import psutil
from scale_rlhf.cluster.processes import ProcessWatch
from scale_rlhf.cluster.ray_cluster import session
from scale_rlhf.config.schema import RunConfig

def status(url, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

STRANGER = """
import ray
ray.init(address={!r}, logging_level=50, log_to_driver=False)
print("RAN", ray.get(ray.remote(lambda: 42).remote()))
"""

def stranger(address, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    code = STRANGER.format(address)
    done = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout[-200:] + done.stderr[-2000:]

config = RunConfig(cluster={"cpus": 1, "object_store_gb": 0.1})
with ProcessWatch() as watch, session(config, watch) as dashboard, ThreadPoolExecutor() as pool:
    import ray
    from ray._raylet import AuthenticationMode, get_authentication_mode
    address = ray.get_runtime_context().gcs_address
    listening = []
    for process in psutil.Process().children(recursive=True):
        try:
            listening += [(c.laddr.ip, process.name()) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
    strangers = {"stranger": pool.submit(stranger, address, RAY_AUTH_MODE="disabled"),  # each gives up after half a minute
                 "forger": pool.submit(stranger, address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)}
    path = Path.home() / ".ray" / "auth_token"
    found = {
        "token": get_authentication_mode() == AuthenticationMode.TOKEN, "mode": stat.S_IMODE(path.stat().st_mode),
        "gcs": address, "dashboard": dashboard, "listening": listening,
        "without": status(dashboard + "/api/jobs/"), "wrong": status(dashboard + "/api/jobs/", "0" * 64),
        "with": status(dashboard + "/api/jobs/", path.read_text().strip()),
    } | {who: each.result() for who, each in strangers.items()}
print("FOUND" + json.dumps(found))
'''


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a session with default settings looks like from inside and from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    home = tmp_path_factory.mktemp("home")  # a user who never ran Ray
    variables = kept | {"HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=variables, capture_output=True, text=True, timeout=280, check=False)
    assert "FOUND" in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.split("FOUND")[1])


def test_the_session_asks_for_a_token(found):
    assert found["token"] is True and found["mode"] == 0o600


def test_nothing_listens_beyond_this_machine(found):
    assert len(found["listening"]) >= 3  # the cluster's own address, the raylet's, the dashboard's
    here = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not [(address, who) for address, who in found["listening"] if address not in here]
    assert found["gcs"].startswith("127.0.0.1:") and found["dashboard"].startswith("http://127.0.0.1:")


def test_the_dashboard_answers_who_has_the_token_alone(found):
    assert found["without"] in (401, 403) and found["wrong"] in (401, 403) and found["with"] == 200


@pytest.mark.parametrize("who", ["stranger", "forger"])
def test_who_has_no_token_runs_no_code(found, who):
    status, said = found[who]
    assert status != 0 and "RAN" not in said.replace("print(", "")
    assert "auth" in said.lower() or "token" in said.lower(), said
