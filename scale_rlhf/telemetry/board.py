"""The Grafana board, as JSON that Grafana reads from a folder; in the form that Ray's own boards have."""

from typing import Any

from scale_rlhf.telemetry.panels import ROWS, Panel, series

UID = "scaleRlhfDashboard"
_WIDTH, _PER_ROW, _HEIGHT = 24, 3, 8
_SOURCE = "${datasource}"


def board() -> dict[str, Any]:
    """The whole board. The run is chosen at its top."""
    panels, y, number = [], 0, 1
    for question, row in ROWS.items():
        panels.append({"id": number, "type": "row", "title": question, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1}})
        y, number = y + 1, number + 1
        for place, panel in enumerate(row):
            width = _WIDTH // _PER_ROW
            where = {"x": width * (place % _PER_ROW), "y": y + _HEIGHT * (place // _PER_ROW), "w": width, "h": _HEIGHT}
            panels.append(_panel(panel, number, where))
            number += 1
        y += _HEIGHT * -(-len(row) // _PER_ROW)
    return {
        "uid": UID, "title": "scale-rlhf", "tags": ["scale-rlhf", "ray"], "schemaVersion": 27, "version": 1, "editable": True,
        "time": {"from": "now-1h", "to": "now"}, "refresh": "10s", "timezone": "", "graphTooltip": 1, "links": [],
        "annotations": {"list": []}, "templating": {"list": [_source(), _runs()]}, "panels": panels,
    }


def _panel(panel: Panel, number: int, where: dict[str, int]) -> dict[str, Any]:
    targets = [{"expr": query, "legendFormat": legend, "refId": chr(ord("A") + place), "interval": ""}
               for place, (query, legend) in enumerate(panel.queries)]
    return {
        "id": number, "type": "timeseries", "title": panel.title, "description": panel.about, "datasource": _SOURCE,
        "gridPos": where, "targets": targets, "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"lineWidth": 1, "fillOpacity": 0}}, "overrides": []},
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2, "refresh": 1, "includeAll": False,
            "multi": False, "options": [], "regex": "", "current": {"selected": False}}


def _runs() -> dict[str, Any]:
    query = f"label_values({series('step', '')}, run)"
    return {"name": "run", "type": "query", "datasource": _SOURCE, "definition": query, "label": "run", "hide": 0, "refresh": 2,
            "query": {"query": query, "refId": "StandardVariableQuery"}, "includeAll": False, "multi": False, "sort": 2,
            "options": [], "regex": "", "current": {"selected": False}}
