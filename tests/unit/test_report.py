"""The report: one file that needs nothing else, shows what there is, and lets no text from data become markup."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry.metrics import MetricsLog
from scale_rlhf.telemetry.report import write_report
from scale_rlhf.telemetry.svg import Series, line_chart, moving_average, nice_ticks, number_text, stacked_chart

EVIL = "<script>alert('x')</script> & \"quoted\" <img src=http://example.com/a.png>"


class Checked(HTMLParser):
    """Collects tags and attributes, and fails on tags that do not close."""

    VOID = {"meta", "br", "hr", "img", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self._open = [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "practice-run")
    make_run(folder)
    return folder


def make_run(folder: RunFolder, steps: int = 60) -> None:
    """A run folder as the stages leave it, with curves that look like curves."""
    with MetricsLog(folder, "ppo") as log:
        for step in range(1, steps + 1):
            log.log(step, _ppo_values(step))
    with MetricsLog(folder, "evaluate") as log:
        for step in range(1, steps + 1):
            share = 1 - math.exp(-step / 20)
            log.log(step, {"true/score": 2 + 2 * share, "true/helpful": share, "true/honest": 0.9, "true/harmless": 1.0})
    for stage in ("base", "sft", "reward"):
        with MetricsLog(folder, stage) as log:
            for step in range(1, 30):
                log.log(step, {"loss": 3 / step, "accuracy": 1 - 0.5 / step})
    curve = [{"count": 9, "predicted": 1.5, "seen": 1.25}, {"count": 4, "predicted": 3.5, "seen": 4.0}]
    aspects = {"helpful": {"pairs": 7, "accuracy": 0.875, "calibration": curve}, EVIL: {"pairs": 0, "length_correlation": 0.25}}
    (folder.stage("reward") / "quality.json").write_text(json.dumps({"feedback": "ratings", "aspects": aspects}))
    work = folder.stage("evaluation")
    (work / "table.json").write_text(json.dumps(TABLE))
    rows = [
        {
            "index": i,
            "prompt": f"Question {i}? {EVIL}",
            "answers": {
                "base": {"text": "What else?", "score": 0.0, "reward": -1.0},
                "sft": {"text": EVIL, "score": 2.0, "reward": 0.5},
                "ppo": {"text": "", "score": 4.0, "reward": 1.5},
            },
        }
        for i in range(9)
    ]
    (work / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder.path / "config.yaml").write_text(f"run: {{name: practice-run}}  # {EVIL}\n")
    (folder.path / "environment.json").write_text(
        json.dumps({"cpus": 2, "seeds": {"run": 3}, "packages": {"scale-rlhf": "0.1.0", "torch": "2.13.0"}})
    )
    (folder.path / "run.json").write_text(
        json.dumps(
            {
                "created": "2026-01-02T03:04:05",
                "stages": {
                    "sft": {"state": "done", "seconds": 12.5, "summary": {"loss": 0.51234}},
                    "evaluate": {"state": "running"},
                },
            }
        )
    )


TABLE = {
    "models": {
        "base": {
            "path": "x",
            "score": 0.1,
            "right_form": 0.03,
            "reward": -1.2,
            "kl": 80.0,
            "perplexity": 3.1,
            "tokens": 64.0,
            "win_rate": 0.02,
        },
        "sft": {
            "path": "x",
            "score": 2.5,
            "right_form": 0.93,
            "reward": 0.3,
            "kl": 0.0,
            "perplexity": 3.6,
            "tokens": 9.0,
            "win_rate": None,
        },
        "ppo": {
            "path": "x",
            "score": 4.2,
            "right_form": 0.99,
            "reward": 2.1,
            "kl": 9.1,
            "perplexity": 3.9,
            "tokens": 11.0,
            "win_rate": 0.84,
        },
    },
    "anchor": "sft",
    "prompts": 300,
    "temperature": 0.7,
    "win_by": "true score",
    "best_attainable": 4.9,
    "gap_closed": 0.708,
}


def _ppo_values(step: int) -> dict[str, float]:
    share = 1 - math.exp(-step / 20)
    wave = 0.2 * math.sin(step)
    return {
        "reward/score_mean": 3 * share + wave,
        "reward/total_mean": 2 * share,
        "kl/reference_mean": 9 * share,
        "kl/coefficient": 0.05,
        "policy/loss": wave,
        "policy/entropy": 1.5 - share,
        "policy/clip_fraction": 0.1,
        "policy/approximate_kl": 0.01,
        "policy/gradient_norm": 1.0,
        "value/update_loss": 1 - share,
        "value/explained_variance": math.nan if step == 1 else share,
        "value/value_error": 1 - share,
        "value/update_gradient_norm": 2.0,
        "response/tokens_mean": 10 + 2 * share,
        "response/ended_share": 0.9,
        "parity/gap_mean": 1e-7,
        "parity/gap_max": 2e-6,
        "time/step": 2.0,
        "time/generate": 0.8,
        "time/score": 0.2,
        "time/reference": 0.2,
        "time/value_prepare": 0.1,
        "time/update_policy": 0.7,
        "time/update_value": 0.7,
        "time/publish": 0.05,
        "tokens/per_second": 900.0,
        "idle/rollout": 0.2,
        "idle/policy": 0.4,
        "time/bubble": 0.3,
        "staleness/mean": 0.9,
        "staleness/max": 1.0,
        "policy/effective_share": 0.97,
    }


def test_the_report_is_one_self_contained_file(folder):
    path = write_report(folder)
    assert path == folder.path / "report.html"
    page = Checked(path.read_text())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href", "action") or name.startswith("on")]
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert ("name", "viewport") in page.attributes  # readable on a phone


def test_it_shows_table_answers_curves_and_configuration(folder):
    text = write_report(folder.path).read_text()
    for shown in (
        "71%",
        "2.50 → 4.20",
        "84%",
        "3.60 → 3.90",
        "KL to SFT, nats a response",
        "win rate against SFT",
        "Best attainable true score: 4.90",
        "Question 8?",
        "Reward model on held-out responses",
        "0.875",
        "(nothing)",
        "torch",
        "seed 3",
        "0.5123",
        "2026-01-02",
    ):
        assert shown in text, shown
    titles = re.findall(r"<figcaption>([^<]*)</figcaption>", text)
    for title in (
        "Reward-model score",
        "True score of the same answers",
        "KL to the reference, nats a response",
        "Value error",
        "Explained variance of the value",
        "Response length, tokens",
        "Entropy, nats a token",
        "Clip fraction",
        "Time of a step by role, seconds",
        "Base model: loss",
        "Calibration",
        "Instruction tuning: loss",
        "Reward model: loss",
        "Engine against trainer, log-probability gap",
    ):
        assert title in titles, title
    assert "evaluate" not in re.findall(r"<tr><td>([^<]*)</td><td>", text)  # it is not done while it writes this


def test_text_from_data_is_escaped(folder):
    text = write_report(folder).read_text()
    assert "<script" not in text and "<img" not in text
    assert text.count("&lt;script&gt;") >= 9 + 9 + 1  # prompts, answers, configuration


def test_the_best_model_is_marked_only_where_better_is_known(folder):
    text = write_report(folder).read_text()
    row = {match[0]: match[1] for match in re.findall(r"<tr><td>([^<]*)</td>((?:<td class=.*?</td>)+)</tr>", text)}
    assert re.findall(r'number( best)?"', row["true score (0 to 5)"]) == ["", "", " best"]
    assert re.findall(r'number( best)?"', row["perplexity on base text"]) == [" best", "", ""]
    assert " best" not in row["KL to SFT, nats a response"]


def test_any_part_may_be_missing(tmp_path):
    empty = write_report(tmp_path)
    Checked(empty.read_text())
    folder = RunFolder(tmp_path / "run")
    with MetricsLog(folder, "ppo") as log:
        log.log(1, {"reward/score_mean": 1.0, "time/generate": 1.0})
        log.log(2, {"reward/score_mean": math.nan})
    text = write_report(folder).read_text()
    Checked(text)
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", text) == ["Reward-model score", "Time of a step by role, seconds"]
    for number in re.findall(r'points="([^"]*)"', text):
        assert "nan" not in number


def test_ticks_are_round_and_span_the_numbers():
    assert nice_ticks(0, 10) == [0, 2.5, 5, 7.5, 10]
    assert nice_ticks(0.13, 0.97) == [0, 0.25, 0.5, 0.75, 1.0]
    for low, high in ((3, 3), (0, 0), (-5, -5), (1e-9, 3e-9), (-1e6, 2e6)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and len(ticks) >= 2
    assert [number_text(value) for value in (0, 12000, 2.5e6, 0.00001, 0.25)] == ["0", "12k", "2.5M", "1e-05", "0.25"]


def test_curves_stay_inside_the_picture():
    picture = line_chart([Series("a", [(step, step * 1000.0 - 7) for step in range(50)])])
    for points in re.findall(r'points="([^"]*)"', picture):
        for x, y in (map(float, point.split(",")) for point in points.split()):
            assert 0 <= x <= 440 and 0 <= y <= 240


def test_stack_adds_up():
    """Two bands of 1 and 3: the upper edge of the second is at 4, which the axis ends with."""
    picture = stacked_chart([Series("a", [(1, 1.0), (2, 1.0)]), Series("b", [(1, 3.0), (2, 3.0)])])
    first, second = re.findall(r'polygon class="f\d" points="([^"]*)"', picture)
    tops = [float(points.split()[0].split(",")[1]) for points in (first, second)]
    bottom = float(first.split()[-1].split(",")[1])
    assert (bottom - tops[1]) == pytest.approx(4 * (bottom - tops[0]), abs=0.3)


def test_moving_average_keeps_a_straight_line():
    line = [(float(x), 2.0 * x) for x in range(20)]
    assert moving_average(line, 4)[5:15] == line[5:15]


@pytest.mark.parametrize("values", [
    (1.0, 0.9999999999999998, 1.0),  # an accuracy that is 1 but for rounding: this divided by zero
    (3e-14, 1e-14, 2e-14), (0.0, 0.0, 0.0), (-1e9, -1e9 + 1e-6, -1e9), (5.0, 5.0, 5.0), (1e-300, 2e-300, 0.0),
])
def test_values_that_hardly_differ_are_drawn(values):
    ticks = nice_ticks(min(values), max(values))
    assert ticks[0] <= min(values) and max(values) <= ticks[-1] and ticks[0] < ticks[-1] and len(ticks) < 20
    drawn = line_chart([Series("accuracy", list(enumerate(values, 1)))])
    assert "<svg" in drawn and "nan" not in drawn
