"""What `scale-rlhf dashboard` writes: Prometheus takes it, alerts go off when they should, the board asks for what there is."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from scale_rlhf.cli import app
from scale_rlhf.telemetry.alerts import ALERTS, rules
from scale_rlhf.telemetry.board import board
from scale_rlhf.telemetry.catalogue import METRICS
from scale_rlhf.telemetry.monitoring import write
from scale_rlhf.telemetry.panels import ROWS

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")


def promtool(*words: object) -> str:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_writes_the_folder_as_ray_lays_it_out(tmp_path):
    done = CliRunner().invoke(app, ["dashboard", "--out", str(tmp_path / "watch")])
    assert done.exit_code == 0, done.output
    made = {str(path.relative_to(tmp_path / "watch")) for path in (tmp_path / "watch").rglob("*") if path.is_file()}
    assert made == {"prometheus/prometheus.yml", "prometheus/alerts.yml", "grafana/grafana.ini",
                    "grafana/provisioning/datasources/default.yml", "grafana/provisioning/dashboards/default.yml",
                    "grafana/dashboards/scale_rlhf_grafana_dashboard.json"}
    config = yaml.safe_load((tmp_path / "watch/prometheus/prometheus.yml").read_text())
    assert config["scrape_configs"][0]["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    assert "http_addr = 127.0.0.1" in (tmp_path / "watch/grafana/grafana.ini").read_text()


def test_a_cluster_elsewhere_is_asked_with_the_file_of_the_token_never_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "e7c0ffee" * 8)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secrets/token")
    files = write(tmp_path, tmp_path / "ray", "http://head:8265/")
    asked = yaml.safe_load(files[0].read_text())["scrape_configs"][0]["http_sd_configs"][0]
    assert asked == {"url": "http://head:8265/api/prometheus/sd", "authorization": {"credentials_file": "/secrets/token"}}
    assert not [file for file in files if "e7c0ffee" in file.read_text()]


def test_the_board_answers_from_top_to_bottom():
    panels = board()["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Is it learning?", "Is it healthy?", "Who is the bottleneck?"] == list(ROWS)
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in panels]
    assert places == sorted(set(places))
    assert json.loads(json.dumps(board())) == board()


def test_board_and_alerts_ask_for_metrics_of_the_catalogue():
    known = {metric.exported for metric in METRICS} | {metric.exported.replace("_count", "_bucket") for metric in METRICS}
    queries = [query for row in ROWS.values() for panel in row for query, _ in panel.queries] + [alert.query for alert in ALERTS]
    asked = {name for query in queries for name in re.findall(r"ray_scale_rlhf_\w+", query)}
    assert asked <= known and len(asked) > 30


@needs_promtool
@pytest.mark.parametrize("address", [None, "http://head:8265"])
def test_prometheus_takes_configuration_and_rules(tmp_path, address):
    token = tmp_path / "token"  # promtool looks whether it is there
    token.write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        files = write(tmp_path, tmp_path / "ray", address)
    said = promtool("check", "config", files[0])
    assert f"SUCCESS: {len(ALERTS)} rules found" in said


def values(name: str, run: str, numbers: str, **labels: str) -> dict:
    inside = ",".join(f'{key}="{value}"' for key, value in ({"run": run} | labels).items())
    return {"series": f"ray_scale_rlhf_{name}{{{inside}}}", "values": numbers}


# Two runs, a sample a minute: nothing is wrong with `well`, and with `ill` everything.
SERIES = [
    values("step_timestamp_seconds", "well", "0+60x60"), values("step_timestamp_seconds", "ill", "0x60"),
    values("step_seconds", "well", "60x60"), values("step_seconds", "ill", "20x60"),
    values("stage_running", "well", "1x60", stage="ppo"), values("stage_running", "ill", "1x60", stage="ppo"),
    values("step_timestamp_seconds", "slow", "0x60"), values("step_seconds", "slow", "3600x60"),
    values("stage_running", "slow", "1x60", stage="ppo"),
    values("state", "well", "5 5 5 0x57", role="rollout", replica="engine-0"),
    values("state", "ill", "0 2x59", role="rollout", replica="engine-0"),
    values("state", "ill", "0 3x59", role="policy", replica="0"),
    values("kl", "well", "2x60"), values("kl_limit", "well", "10x60"), values("kl_target", "well", "1x60"),
    values("kl", "ill", "9x60"), values("kl_limit", "ill", "10x60"),
    values("kl", "far", "4x60"), values("kl_target", "far", "1x60"),
    values("parity_gap_max", "well", "1e-6x60"), values("parity_gap_limit", "well", "1e-4x60"),
    values("parity_gap_max", "ill", "9e-5x60"), values("parity_gap_limit", "ill", "1e-4x60"),
    values("disk_free_bytes", "well", "500e9x60"), values("disk_total_bytes", "well", "1000e9x60"),
    values("disk_free_bytes", "ill", "30e9x60"), values("disk_total_bytes", "ill", "1000e9x60"),
    values("disk_free_bytes", "far", "300e9-2e9x60"), values("disk_total_bytes", "far", "1000e9x60"),
]
WHO = {"RunMakesNoProgress": ["ill"], "EngineLost": ["ill"], "RoleLost": ["ill"], "KLOutOfBounds": ["ill", "far"],
       "EngineTrainerGap": ["ill"], "DiskFilling": ["ill", "far"]}


@needs_promtool
def test_each_alert_goes_off_where_something_is_wrong_and_nowhere_else(tmp_path):
    """Asked of Prometheus's own evaluation, an hour in."""
    assert set(WHO) == {alert.name for alert in ALERTS}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules()))
    counted = [{"expr": f'count by (alertname, run) (ALERTS{{alertstate="firing",alertname="{name}"}})', "eval_time": "59m",
                "exp_samples": [{"labels": f'{{alertname="{name}", run="{run}"}}', "value": 1} for run in runs]}
               for name, runs in WHO.items()]
    test = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": SERIES, "promql_expr_test": counted}]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", tmp_path / "test.yml")
