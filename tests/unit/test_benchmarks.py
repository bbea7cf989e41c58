"""The benchmarks' arithmetic, table and files. The benchmarks themselves are not run here."""

import io

import pytest
from rich.console import Console

from benchmarks import models
from benchmarks.alternate import alternate, column, rounds, turn
from benchmarks.measure import Aim, Spread, at_least, at_most, figure, number_text, spread_text
from benchmarks.overlap import sides
from benchmarks.plan import NAMES, Job, jobs
from benchmarks.plot import bars
from benchmarks.progress import Progress
from benchmarks.report import show, write_page
from benchmarks.result import Result, read, verdicts


def quiet(steps: int = 0) -> Progress:
    return Progress("test", steps, console=Console(file=io.StringIO()))


def result() -> Result:
    made = Result("rollout", "3M", {"threads": 2})
    made.figures = [
        figure("fleet", [95.0, 99.0, 90.0], [100.0, 100.0, 100.0], against="offline", unit="tokens/s", aim=at_least(0.95)),
        figure("step", [1.3, 1.2, 1.4], [1.0, 1.0, 1.0], against="ideal", unit="s", aim=at_most(1.1)),
        figure("free", [2.0], [1.0], against="nothing", unit="s"),
    ]
    made.blocks = {"w3": {"fleet": [{"wall_seconds": 1.0}]}}
    made.notes = ["a note"]
    return made


def test_a_spread_is_the_median_with_least_and_largest():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([1.0, 2.0]).median == 1.5
    with pytest.raises(ValueError, match="no block"):
        Spread.of([])


def test_ratios_are_paired_block_by_block():
    """A machine that gets twice as slow halfway changes both sides of each pair, and no ratio."""
    found = figure("x", [10.0, 5.0, 5.0], [20.0, 10.0, 10.0], against="y", unit="s")
    assert found.ratio == Spread(0.5, 0.5, 0.5, 3)
    with pytest.raises(ValueError, match="2 blocks against 1"):
        figure("x", [1.0, 2.0], [1.0], against="y", unit="s")


def test_the_median_decides_whether_an_aim_is_met():
    assert at_least(0.95).met(0.95) and not at_least(0.95).met(0.94)
    assert at_most(1.1).met(1.1) and not at_most(1.1).met(1.2)
    assert [one.verdict for one in result().figures] == ["met", "missed", ""]
    assert verdicts([result()]) == {"met": 1, "missed": 1}
    assert str(at_least(0.95)) == "≥ 0.95" and str(Aim("at_most", 1.1)) == "≤ 1.1"


def test_contenders_take_turns_and_the_warm_up_is_dropped():
    calls = []

    def contender(name):
        def block():
            calls.append(name)
            return {"tokens": float(len(calls))}
        return block

    found = alternate({"a": contender("a"), "b": contender("b")}, 3, quiet(), warm_up=1)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"] and len(calls) == rounds(2, 3)
    assert column(found, "a", "tokens") == [4.0, 5.0, 8.0]
    assert all(block["wall_seconds"] >= 0 for block in found["b"])
    assert turn(["a", "b"], 1) == ["b", "a"]


def test_a_result_comes_back_from_its_file(tmp_path):
    made = result()
    back = read(made.write(tmp_path))
    assert back.figures == made.figures and back.as_json() == made.as_json()
    assert {"cpu", "cores", "memory_gib", "versions", "load_at_start"} <= set(back.machine)


def test_the_table_says_ratio_aim_and_verdict(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    show([result()], console)
    text = console.file.getvalue()
    for part in ("0.95 (0.90–0.99)", "≥ 0.95", "met", "missed", "offline", "a note", "1 aims met, 1 missed"):
        assert part in text
    page = write_page([result()], tmp_path).read_text()
    assert page.count("<rect") == 3 and "1.30 (1.20–1.40)" in page
    assert bars([]) == ""


def test_progress_guesses_the_time_left_from_what_was_done():
    progress = quiet(steps=4)
    assert progress.left() is None
    progress.taken["a"], progress.finished = [2.0, 4.0], 2
    assert progress.left() == 6.0


def test_numbers_are_short():
    assert [number_text(one) for one in (0, 12345.6, 1.5678, 0.012345)] == ["0", "12,346", "1.57", "0.0123"]
    assert spread_text(Spread.of([1.0])) == "1" and spread_text(Spread.of([1.0, 2.0, 3.0]), 1) == "2.0 (1.0–3.0)"


def test_full_adds_the_larger_model_and_bfloat16():
    small, full = jobs([], full=False), jobs([], full=True)
    assert [job.name for job in small] == list(NAMES) and {job.size for job in small} == {"3M"}
    assert [job.name for job in full if job.size == "50M"] == ["rollout", "training", "overlap", "trl"]
    assert {job.dtypes for job in full if job.name == "trl"} == {("float32", "bfloat16")}
    assert jobs(["trl"], full=False) == [Job("trl", "3M", ("float32",))]
    assert [job.only for job in small if job.name == "trl"] == [("grpo",)] and not any(job.only for job in full)


def test_models_have_the_size_that_their_name_says():
    assert {size: round(models.parameters(size) / 1e6) for size in models.SHAPES} == {
        "3M": 3, "10M": 10, "50M": 51, "100M": 103, "400M": 409}
    drawn = models.lengths(2000, median=40, sigma=0.8, low=4, high=240, seed=0)
    assert min(drawn) >= 4 and max(drawn) == 240 and 37 <= sorted(drawn)[1000] <= 43


def test_each_core_has_its_own_parts_of_a_step():
    parts = {"stream": 3.0, "score": 1.0, "advantages": 0.5, "update": 2.0, "publish": 0.25, "load": 0.25}
    found = sides(parts)
    assert (found["rollout"], found["learner"], found["ideal"]) == (3.25, 3.75, 3.75)
