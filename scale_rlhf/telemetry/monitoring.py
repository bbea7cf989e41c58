"""The folder that Prometheus and Grafana are started on, laid out as Ray lays out its own.

    prometheus/prometheus.yml   scrapes every node of the cluster, which Ray's service discovery names
    prometheus/alerts.yml
    grafana/grafana.ini         on loopback; viewers need no account, and Ray's dashboard may show panels
    grafana/provisioning/       the data source; the folders of boards, ours and Ray's own
    grafana/dashboards/         ours
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from scale_rlhf.disk import writing
from scale_rlhf.orchestration.run_folder import write_atomically
from scale_rlhf.telemetry.alerts import rules
from scale_rlhf.telemetry.board import board

EVERY = "10s"  # as often as Ray's processes report
DISCOVERY = "prom_metrics_service_discovery.json"  # Ray's, in its temporary folder
STARTS = """
prometheus --config.file={out}/prometheus/prometheus.yml --storage.tsdb.path={out}/data --web.listen-address=127.0.0.1:9090
grafana server --homepath /usr/share/grafana --config {out}/grafana/grafana.ini"""
GRAFANA_INI = """[server]
http_addr = 127.0.0.1

[security]
allow_embedding = true

[auth.anonymous]
enabled = true
org_name = Main Org.
org_role = Viewer

[paths]
provisioning = {provisioning}
"""


def write(out: Path, ray: Path, address: str | None = None) -> list[Path]:
    """Write it all under `out`; returns the files. ray: Ray's temporary folder on this machine.

    address: of a cluster's dashboard, such as http://head:8265, where Prometheus runs on another machine than Ray's head. It then
    asks there for the nodes, with the token of the file that Ray itself reads.
    """
    out = out.absolute()
    grafana, prometheus = out / "grafana", out / "prometheus"
    files = {
        prometheus / "prometheus.yml": _yaml(_prometheus(ray, address)),
        prometheus / "alerts.yml": _yaml(rules()),
        grafana / "grafana.ini": GRAFANA_INI.format(provisioning=grafana / "provisioning"),
        grafana / "provisioning" / "datasources" / "default.yml": _yaml(_sources()),
        grafana / "provisioning" / "dashboards" / "default.yml": _yaml(_boards(grafana / "dashboards", ray)),
        grafana / "dashboards" / "scale_rlhf_grafana_dashboard.json": json.dumps(board(), indent=2) + "\n",
    }
    for path, text in files.items():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return list(files)


def _prometheus(ray: Path, address: str | None) -> dict[str, Any]:
    job: dict[str, Any] = {"job_name": "ray"}
    if address is None:
        job["file_sd_configs"] = [{"files": [str(ray / DISCOVERY)]}]
    else:
        token = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
        asked = f"{address.rstrip('/')}/api/prometheus/sd"
        job["http_sd_configs"] = [{"url": asked, "authorization": {"credentials_file": token}}]
    every = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    return {"global": every, "rule_files": ["alerts.yml"], "scrape_configs": [job]}


def _sources() -> dict[str, Any]:
    return {"apiVersion": 1, "datasources": [{
        "name": os.environ.get("RAY_PROMETHEUS_NAME", "Prometheus"), "type": "prometheus", "access": "proxy", "isDefault": True,
        "url": os.environ.get("RAY_PROMETHEUS_HOST", "http://localhost:9090")}]}


def _boards(ours: Path, ray: Path) -> dict[str, Any]:
    theirs = ray / "session_latest" / "metrics" / "grafana" / "dashboards"  # made by each cluster with a dashboard
    return {"apiVersion": 1, "providers": [
        {"name": name, "folder": name, "type": "file", "options": {"path": str(path)}}
        for name, path in (("scale-rlhf", ours), ("Ray", theirs))]}


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
