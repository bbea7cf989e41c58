"""Metrics: what is logged is what is read, as JSON that every reader takes and as TensorBoard scalars."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from scale_rlhf.errors import DataError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry.metrics import MetricsLog, read_jsonl, read_metrics
from scale_rlhf.telemetry.progress import PlainLines, stage_progress


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def test_lines_hold_step_time_and_values(folder):
    with MetricsLog(folder, "sft") as log:
        log.log(1, {"loss": 2.5, "tokens": 7})
        log.log(2, {"loss": np.float32(1.5), "norm": torch.tensor(0.25)})
    first, second = read_metrics(folder.metrics("sft"))
    assert (first["step"], first["loss"], first["tokens"]) == (1, 2.5, 7)
    assert (second["loss"], second["norm"]) == (1.5, 0.25)
    assert 0 <= first["time"] <= second["time"] < 60


def test_not_finite_becomes_null_without_a_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with MetricsLog(folder, "ppo") as log:
            log.log(1, {"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf), "d": None, "e": 1.0})
    text = folder.metrics("ppo").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [line[key] for key in "abcde"] == [None, None, None, None, 1.0]


def test_tensorboard_has_the_same_scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(folder, "ppo") as log:
        log.log(3, {"kl/reference_mean": 0.5, "bad": math.nan})
        log.log(4, {"kl/reference_mean": 0.75})
    events = EventAccumulator(str(folder.tensorboard("ppo"))).Reload()
    assert [(e.step, e.value) for e in events.Scalars("kl/reference_mean")] == [(3, 0.5), (4, 0.75)]
    assert "bad" not in events.Tags()["scalars"]


def test_a_stage_that_goes_on_from_a_checkpoint_has_no_step_twice(folder):
    """Steps after the checkpoint are dropped, in the file and for TensorBoard; what a killed process held back is there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(folder, "sft") as log:
        for step in (1, 2, 3, 4):
            log.log(step, {"loss": float(step), "norm": math.inf})
    watching = EventAccumulator(str(folder.tensorboard("sft"))).Reload()
    with MetricsLog(folder, "sft", after=2) as log:
        for step in (3, 4, 5):
            log.log(step, {"loss": 10.0 * step})
    lines = [json.loads(line) for line in folder.metrics("sft").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]
    assert sorted(line["time"] for line in lines) == [line["time"] for line in lines]
    for reader in (EventAccumulator(str(folder.tensorboard("sft"))), watching):
        assert [(e.step, e.value) for e in reader.Reload().Scalars("loss")] == [(line["step"], line["loss"]) for line in lines]
    for file in folder.tensorboard("sft").iterdir():
        file.unlink()  # never flushed, say
    with MetricsLog(folder, "sft", after=1) as log:
        log.log(2, {"loss": 7.0})
    assert [e.value for e in EventAccumulator(str(folder.tensorboard("sft"))).Reload().Scalars("loss")] == [1.0, 7.0]


def test_a_resumed_stage_goes_on_in_the_same_file(folder):
    with MetricsLog(folder, "ppo") as log:
        log.log(1, {"loss": 1.0})
        log.log(2, {"loss": 2.0})
    path = folder.metrics("ppo")
    path.write_text(path.read_text().replace('"time": ', '"time": 9') + '{"step": 3, "lo')  # killed while writing step 3
    with MetricsLog(folder, "ppo") as log:
        log.log(2, {"loss": 20.0})
        log.log(3, {"loss": 30.0})
    lines = read_metrics(path)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 20.0), (3, 30.0)]
    assert lines[1]["time"] >= 90  # seconds go on from the last line that stands


def test_reading(tmp_path):
    path = tmp_path / "ppo.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 2}\n\n{"step": 1}\n{"step": 2, "again": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2, "again": 1}]
    assert len(read_jsonl(path)) == 3
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match="ppo.jsonl:2"):
        read_metrics(path)


def test_closing_twice_is_harmless(folder):
    log = MetricsLog(folder, "ppo")
    log.log(1, {"a": 1.0})
    log.close()
    log.close()
    assert [row["a"] for row in read_metrics(log.path)] == [1.0]


def test_tensorboard_is_imported_when_something_is_logged():
    code = "import sys, scale_rlhf.telemetry.metrics; sys.exit(bool({'torch', 'tensorboard'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_plain_progress_is_a_line_every_few_seconds():
    now, lines = [0.0], []
    progress = PlainLines("ppo", 100, lines.append, clock=lambda: now[0])
    for _ in range(20):
        now[0] += 1.0
        progress.advance(1, "score 3.1")
    assert lines[0] == "ppo 0/100"
    assert lines[1] == "ppo 5/100, 0:05 gone, about 1:35 left, score 3.1"
    assert len(lines) == 5
    progress.end()
    assert len(lines) == 5  # the last one was told already
    progress.advance(80)
    progress.end()
    assert lines[-1] == "ppo 100/100, 0:20 gone"


def test_progress_where_there_is_no_terminal(capsys):
    with stage_progress("evaluate [x]", 3) as progress:
        progress.advance(3, "done [/y]")
    assert capsys.readouterr().err.splitlines() == ["evaluate [x] 0/3", "evaluate [x] 3/3, 0:00 gone, done [/y]"]


def test_progress_on_a_terminal():
    import io

    from rich.console import Console

    out = io.StringIO()
    with stage_progress("evaluate", 2, Console(file=out, force_terminal=True, width=100)) as progress:
        progress.advance(2, "loss 1.5")
    assert "2/2" in out.getvalue() and "loss 1.5" in out.getvalue()
