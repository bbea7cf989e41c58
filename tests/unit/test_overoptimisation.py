"""Where reward and judge part: constructed curves, with the parting known; and what a run's folder says of it."""

import json
import math
import random

import pytest

from scale_rlhf.algorithms.overoptimisation import FEWEST, Point, frontier, noise, normalised, parting, smoothed
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry.metrics import MetricsLog
from scale_rlhf.telemetry.overoptimisation_report import find, nearest, overoptimisation_section, write


def curve(judge, count: int = 40, deviation: float = 0.0, seed: int = 0, reward=lambda x: x) -> list[Point]:
    """Versions 0, 10, 20, …; judge and reward as functions of the share x of the run, with noise."""
    random_ = random.Random(seed)
    return [Point(10 * place, 9 * x, reward(x) + random_.gauss(0, deviation), judge(x) + random_.gauss(0, deviation))
            for place in range(count) for x in [place / (count - 1)]]


def tent(x: float) -> float:
    """Rises until the middle, then falls."""
    return 2 * x if x <= 0.5 else 2 - 2 * x


def gao(x: float) -> float:
    """d (α − β log d), d = √KL = 3√x: Gao et al.'s law for reinforcement learning, with its peak at d = e^(α/β − 1) = 1.65."""
    d = 3 * math.sqrt(x)
    return d * (1.5 - math.log(d)) if d else 0.0


def test_curves_that_do_not_part():
    for judge in (lambda x: x, lambda x: 1 - math.exp(-6 * x), lambda x: 0.0, lambda x: x**2):
        assert parting(curve(judge)) is None
    assert parting(curve(tent, reward=tent)) is None  # the reward falls with it
    assert parting(curve(tent, count=FEWEST - 1)) is None  # too few to tell


def test_a_dip_that_comes_back_is_no_parting():
    assert parting(curve(lambda x: x - 0.8 * (0.3 < x < 0.5))) is None


@pytest.mark.parametrize("count", [FEWEST, 12, 40, 200])
def test_the_parting_is_where_the_judge_is_best(count):
    found = parting(curve(tent, count=count))
    assert abs(found.best.version / (10 * (count - 1)) - 0.5) < 1.5 / count + 0.02
    assert found.best.version < found.seen.version and found.score_change < 0 < found.reward_change


def test_the_peak_of_the_published_law_is_found():
    found = parting(curve(gao, count=60, deviation=0.02))
    assert found.best.distance == pytest.approx(math.exp(0.5), rel=0.1)
    assert found.noise == pytest.approx(0.02, rel=0.5)


def test_noise_alone_seldom_parts_and_seldom_hides_it():
    level = [parting(curve(lambda x: 0.5, count=20, deviation=0.1, seed=seed)) for seed in range(200)]
    assert sum(one is not None for one in level) <= 8
    parted = [parting(curve(tent, count=40, deviation=0.1, seed=seed)) for seed in range(200)]
    assert sum(one is not None for one in parted) >= 190
    assert sum(abs(one.best.version - 195) <= 50 for one in parted if one) >= 190


def test_order_of_points_does_not_matter():
    points = curve(tent, deviation=0.05)
    assert parting(points[::-1]) == parting(points)


def test_noise_is_that_of_the_values_whatever_their_trend():
    random_ = random.Random(1)
    values = [5 * place + random_.gauss(0, 0.3) for place in range(500)]
    assert noise(values) == pytest.approx(0.3, rel=0.15)
    assert noise([3.0, 4.0]) == 0.0 and noise([1.0, 2.0, 3.0]) == 0.0


def test_smoothing_keeps_a_line_and_normalising_its_shape():
    assert smoothed([0.0, 1.0, 2.0, 3.0], 1) == [0.5, 1.0, 2.0, 2.5]
    assert normalised([2.0, 4.0, 1.0]) == [0.0, 1.0, -0.5] and normalised([3.0, 3.0]) == [0.0, 0.0] and normalised([]) == []


def test_the_frontier_has_nobody_better_at_less_kl():
    points = [Point(version, kl, 0.0, score) for version, (kl, score) in enumerate(
        [(0.0, 1.0), (1.0, 2.0), (1.0, 1.5), (2.0, 1.9), (3.0, 4.0), (4.0, 4.0), (5.0, 3.0)])]
    assert [point.version for point in frontier(points)] == [0, 1, 4]
    assert frontier([]) == []
    assert Point(0, -0.2, 0, 0).distance == 0.0 and Point(0, 4.0, 0, 0).distance == 2.0


def finished_run(folder: RunFolder, judge, steps: int = 40, held_out: bool = False) -> None:
    """Metrics as PPO and the evaluation leave them."""
    shares = [step / steps for step in range(steps + 1)]
    with MetricsLog(folder, "ppo") as log:
        for step in range(1, steps + 1):
            log.log(step, {"kl/reference_mean": 9 * shares[step - 1]})
    if held_out:
        with MetricsLog(folder, "held_out") as log:
            for version in range(0, steps + 1, 2):
                log.log(version, {"evaluate/reward": shares[version], "evaluate/score": judge(shares[version])})
    with MetricsLog(folder, "evaluate") as log:
        for step in range(1, steps + 1):
            log.log(step, {"true/score": judge(shares[step - 1]), "reward/score_mean": shares[step - 1]})
    for kept in ("models/ppo-step-000010", "models/ppo-step-000030", "models/ppo", "ppo/checkpoints/step-000019"):
        (folder.path / kept).mkdir(parents=True)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_run_says_where_they_part_and_which_checkpoint_is_nearest(tmp_path, held_out):
    folder = RunFolder(tmp_path / "run")
    finished_run(folder, tent, held_out=held_out)
    found = find(folder.path)
    assert ("held-out" in found.source) == held_out and len(found.points) == (21 if held_out else 40)
    assert abs(found.parting.best.version - 20) <= 1 and found.parting.best.kl == pytest.approx(4.5, abs=0.3)
    said = write(folder.path)
    assert f"part at version {found.parting.best.version} (√KL 2.1" in said
    assert "The nearest that was kept: ppo/checkpoints/step-000019 (version 19)." in said
    kept = json.loads((folder.path / "evaluation" / "overoptimisation.json").read_text())
    assert kept["parting"]["best"]["version"] == found.parting.best.version and kept["nearest_kept"]["version"] == 19
    assert kept["frontier"] == sorted(kept["frontier"]) and kept["frontier"][-1] == found.parting.best.version
    page = overoptimisation_section(folder.path)
    assert "they part: version" in page and page.count("<figure>") == 2 and "step-000019" in page and "nan" not in page


def test_a_run_that_does_not_part_or_has_no_judge(tmp_path):
    folder = RunFolder(tmp_path / "run")
    finished_run(folder, lambda x: x)
    assert "do not part" in write(folder.path) and "they part" not in overoptimisation_section(folder.path)
    short = RunFolder(tmp_path / "short")
    finished_run(short, tent, steps=3)
    assert write(short.path).startswith("3 versions were judged; from 8 on") and "<svg" in overoptimisation_section(short.path)
    assert find(tmp_path) is None and write(tmp_path) == "" and overoptimisation_section(tmp_path) == ""


def test_the_nearest_is_a_model_before_a_checkpoint(tmp_path):
    assert nearest(tmp_path, 3) is None
    for kept in ("models/ppo-step-000004", "ppo/checkpoints/step-000004"):
        (tmp_path / kept).mkdir(parents=True)
    assert nearest(tmp_path, 3) == ("models/ppo-step-000004", 4)
