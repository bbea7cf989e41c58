"""A live run watched: by a real Prometheus on the configuration that we write, and in Ray's dashboard, by a real browser.

`make monitoring`. The screenshots go to the folder that the environment variable SCREENSHOTS names.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from scale_rlhf.telemetry import catalogue
from scale_rlhf.telemetry.alerts import ALERTS
from scale_rlhf.telemetry.panels import ROWS
from scale_rlhf.training.process_group import free_port
from tests.chaos.faults import ROOT, Run, lines, make_home
from tests.integration.browser import INSTALLED, browser

pytestmark = [
    pytest.mark.long, pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]
SETTINGS = ("ppo.steps=2000", "cluster.dashboard=true", "overlap.max_staleness=1", "overlap.score_group=16", "limits.kl=500",
            "reward.function=tests.integration.test_live_monitoring:slow_reward",
            "evaluation.every=2", "evaluation.during_prompts=2", "evaluation.judge=tests.integration.test_live_monitoring:judge")
NOT_THERE = {"proximal", "wait_evaluation"}  # phases of another schedule
OF_OTHER_SETTINGS = (  # methods without a critic, KL in the loss, rewards that are shaped or of an ensemble
    "reward_server/ensemble", "reward_server/{source}", "reward_server/overlong", "policy/kl", "value/silent", "value/baseline",
    "baseline/", "sampling/")


def slow_reward(samples: list[dict]) -> list[float]:
    """A step takes about a second, as Prometheus looks every ten."""
    time.sleep(0.15)
    return [len(set(sample["response_ids"])) / 10 for sample in samples]


def judge(prompt: str, response: str) -> dict[str, float]:
    return {"score": float(len(response))}


class Prometheus:
    """On the folder that `scale-rlhf dashboard` writes."""

    def __init__(self, place: Path):
        command = [sys.executable, "-m", "scale_rlhf.cli", "dashboard", "--out", str(place)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(place / "log", "w")  # noqa: SIM115 - the process writes to it
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={place}/prometheus/prometheus.yml", f"--storage.tsdb.path={place}/data",
             f"--web.listen-address={self.address}"], stdout=self.log, stderr=subprocess.STDOUT)
        self.client = httpx.Client(base_url=f"http://{self.address}/api/v1", timeout=20, trust_env=False)

    def ask(self, what: str, **parameters: str) -> dict:
        answer = self.client.get(what, params=parameters)
        assert answer.status_code == 200, answer.text[:500]
        return answer.json()["data"]

    def query(self, query: str) -> list:
        return self.ask("/query", query=query)["result"]

    def ready(self) -> bool:
        try:
            return bool(self.query('count(ray_scale_rlhf_reward_score)'))
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """(run, Prometheus) after some steps, and after the reward's process was killed and replaced."""
    run = Run(make_home(tmp_path_factory.mktemp("watched")), "watched", *SETTINGS)
    prometheus = None
    try:
        run.until(lambda: len(run.steps()) >= 3)
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"))
        run.send("reward", signal.SIGKILL)
        run.until(lambda: lines(run.folder / "faults.jsonl"))
        run.until(prometheus.ready)
        yield run, prometheus
    finally:
        if prometheus is not None:
            prometheus.close()
        run.clean()


def test_every_key_of_a_step_is_in_the_catalogue(watched):
    run, _ = watched
    keys = {key for line in lines(run.folder / "metrics" / "ppo.jsonl") for key in line} - {"step", "time"}
    assert len(keys) > 80 and [key for key in sorted(keys) if catalogue.find(key, "ppo") is None] == []


def test_every_panel_of_the_board_has_data(watched):
    """Each of its queries, as Grafana would fill it in."""
    run, prometheus = watched
    queries = {(panel.title, query) for row in ROWS.values() for panel in row for query, _ in panel.queries}
    missing, end = queries, time.monotonic() + 120
    while missing and time.monotonic() < end:
        run.until(lambda: True)  # it still runs
        missing = {(title, query) for title, query in missing
                   if not prometheus.query(query.replace("$run", run.folder.name).replace("$__rate_interval", "1m"))}
        time.sleep(2)
    assert missing == set()


def test_every_metric_of_the_catalogue_that_such_a_run_has_is_there(watched):
    """By its labels too: what is documented is what comes out."""
    _, prometheus = watched
    series = [one["metric"] for one in prometheus.query('{__name__=~"ray_scale_rlhf_.+",run="watched"}')]  # at this moment
    there = {(one["__name__"], *(one.get(label, "") for label in ("phase",))) for one in series}
    wanted = {(metric.exported, dict(metric.fixed).get("phase", "")) for metric in catalogue.METRICS
              if metric.stages == ("ppo",) and not metric.key.startswith(OF_OTHER_SETTINGS)}
    others = {"ray_scale_rlhf_reward_failed_calls_total"}  # nothing failed for good
    absent = {one for one in wanted - there if one[0] not in others and one[1] not in NOT_THERE}
    assert absent == set()
    roles = {one["role"] for one in series if one["__name__"] == "ray_scale_rlhf_memory_bytes"}
    assert roles == {"controller", "rollout", "reward", "reference", "policy", "value"}
    up = {(one["role"], one["replica"]) for one in series if one["__name__"] == "ray_scale_rlhf_up"}
    assert up == {("rollout", "engine-0"), ("reward", "0"), ("reference", "0"), ("policy", "0"), ("value", "0")}


def test_the_numbers_are_those_of_the_run(watched):
    run, prometheus = watched
    (restarts,) = prometheus.query('ray_scale_rlhf_restarts_total{run="watched"}')
    assert (restarts["metric"]["role"], float(restarts["value"][1])) == ("reward", 1.0)
    (score,) = prometheus.query("ray_scale_rlhf_reward_score")
    recent = [line["reward/score_mean"] for line in lines(run.folder / "metrics" / "ppo.jsonl")]
    assert min(abs(float(score["value"][1]) - one) for one in recent) < 1e-6
    (total,) = prometheus.query("ray_scale_rlhf_disk_total_bytes")
    assert float(total["value"][1]) == shutil.disk_usage(run.folder).total


def test_rules_are_loaded_and_every_target_answers_without_a_token(watched):
    _, prometheus = watched
    rules = [rule for group in prometheus.ask("/rules")["groups"] for rule in group["rules"]]
    assert {(rule["name"], rule["health"]) for rule in rules} == {(alert.name, "ok") for alert in ALERTS}
    targets = prometheus.ask("/targets", state="active")["activeTargets"]
    assert {target["health"] for target in targets} == {"up"} and len(targets) >= 2
    assert {target["labels"]["instance"].rsplit(":", 1)[0] for target in targets} == {"127.0.0.1"}


def test_top_shows_it(watched):
    run, _ = watched
    command = [sys.executable, "-m", "scale_rlhf.cli", "top", str(run.folder), "--once"]
    text = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
                          check=True).stdout
    for words in ("ppo running", "/2000", "tokens a second", "1 of 1 healthy", "in flight", "reward replica 0", "left"):
        assert words in text, text
    assert "no news" not in text


def test_log_lines_of_every_process_say_whose_they_are(watched):
    run, _ = watched
    said = "".join(path.read_text(errors="replace") for path in _session(run).glob("logs/worker-*.err"))
    for mark in ("[watched rollout/engine-0 step ", "[watched reward/0 step ", "[watched reference/0 step ",
                 "[watched policy/0 step 3] updated", "[watched value/0 step 3] updated"):
        assert mark in said, mark
    assert "[watched controller step " in (run.folder / "controller.log").read_text()


@pytest.mark.skipif(not INSTALLED, reason="chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
def test_the_dashboard_shows_actors_by_name_and_the_run(watched):
    """With the token, given once as a person does; without it there is nothing to see."""
    run, prometheus = watched
    address = next(line.split()[-1] for line in run.said.splitlines() if "Ray's dashboard" in line)
    token = (os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").read_text()).strip()
    shots = Path(os.environ["SCREENSHOTS"]) if "SCREENSHOTS" in os.environ else run.home
    assert httpx.get(f"{address}/logical/actors", trust_env=False).status_code in (401, 403)
    with browser() as window:
        window.open(address)
        status = window.run("const done = arguments[arguments.length - 1]; fetch('/api/authenticate', {method: 'POST', headers: "
                            "{Authorization: 'Bearer ' + arguments[0]}}).then(answer => done(answer.status))", token)
        assert status == 200
        window.open(f"{address}/#/actors")
        window.run("location.reload(); arguments[0]()")
        window.until("rollout/engine-0", "reward/0", "reference/0", "policy/0", "value/0", "ALIVE")
        window.screenshot(shots / "ray-actors.png")
        node = httpx.get(f"{address}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"},
                         trust_env=False).json()["data"]["summary"][0]["raylet"]["nodeId"]
        window.open(f"{address}/#/logs/viewer?nodeId={node}&fileName=run-watched.log")
        window.until("[watched controller step", "of 2000: score")
        window.screenshot(shots / "ray-progress.png")
        jobs = httpx.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}, trust_env=False).json()
        assert [job["metadata"]["run"] for job in jobs if job.get("metadata")] == ["watched"]
        calls = httpx.get(f"{address}/api/v0/tasks?detail=1&limit=1000", headers={"Authorization": f"Bearer {token}"},
                          trust_env=False).json()["data"]["result"]["result"]
        assert {"policy/0.update", "value/0.prepare", "reference/0.compute"} <= {call["name"] for call in calls}
        window.open(f"http://{prometheus.address}/graph?g0.expr=ray_scale_rlhf_idle_share&g0.tab=0&g0.range_input=2m")
        window.until("ray_scale_rlhf_idle_share", "policy", "rollout")
        window.screenshot(shots / "prometheus-idle-share.png")


def _session(run: Run) -> Path:
    """Ray's folder of this run's session, which its processes name in their arguments."""
    words = " ".join(" ".join(child.cmdline()) for child in psutil.Process(run.process.pid).children(recursive=True))
    return Path(re.search(r"/[\w./-]*?/session_\d[\w-]*", words)[0])
