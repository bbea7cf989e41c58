"""The catalogue of metrics: one meaning for each name, the page that shows it, and nothing exported beside it."""

import re
from pathlib import Path

import pytest

from scale_rlhf.telemetry import instruments, page
from scale_rlhf.telemetry.catalogue import BY_NAME, METRICS, find

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_rows_of_one_name_are_one_metric():
    for metric in METRICS:
        first = BY_NAME[metric.name]
        assert (metric.kind, set(metric.label_names), metric.bounds) == (first.kind, set(first.label_names), first.bounds)
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name) and metric.kind in ("gauge", "counter", "histogram")
        assert bool(metric.bounds) == (metric.kind == "histogram")


def test_a_row_says_what_is_normal_and_what_to_do():
    for metric in METRICS:
        assert metric.about.endswith(".") and metric.normal and metric.cure, metric


def test_ray_takes_each_description():
    for metric in METRICS:
        assert "?" not in instruments.in_ascii(metric.about) and instruments.in_ascii(metric.about).isascii(), metric


def test_no_two_rows_claim_a_key():
    for metric in METRICS:
        if metric.key:
            key = metric.key.format(role="rollout", age="1", source="liked")
            claims = [other for other in METRICS if other.key and other.labels_of(key, metric.stages[0]) is not None]
            assert claims == [metric]


@pytest.mark.parametrize("key,stage,name,labels", [
    ("reward/score_mean", "ppo", "reward_score", {}),
    ("idle/rollout", "ppo", "idle_share", {"role": "rollout"}),
    ("reward_server/latency_max_seconds", "ppo", "latency_max_seconds", {"role": "reward"}),
    ("reference_server/tokens", "ppo", "tokens", {"role": "reference"}),
    ("value/update_tokens", "ppo", "tokens", {"role": "value"}),
    ("staleness/share_12", "ppo", "staleness_share", {"age": "12"}),
    ("time/publish", "ppo", "phase_seconds", {"phase": "publish"}),
    ("loss", "sft", "supervised_loss", {"stage": "sft"}),
])
def test_a_key_finds_its_metric_and_labels(key, stage, name, labels):
    metric, found = find(key, stage)
    assert (metric.name, found) == (name, labels)
    assert set(found) == set(metric.label_names)


@pytest.mark.parametrize("key", ["reward/score_meen", "loss", "idle/", "staleness/share_x"])
def test_what_is_not_in_it_is_not_found(key):
    assert find(key, "ppo") is None and instruments.record_line(key, 1.0, "ppo") is False


def test_nothing_else_can_be_recorded():
    with pytest.raises(KeyError):
        instruments.record("reward_scoer", 1.0)


def test_the_page_shows_it_as_it_is():
    text = PAGE.read_text(encoding="utf-8")
    made = "python -m scale_rlhf.telemetry.page prints what docs/monitoring.md shall have"
    assert page.metrics() in text, made
    assert page.alerts() in text, made
