"""Over-optimisation in a run: what is known of it from the run's folder, its part of report.html, and its JSON.

A point is a version of the policy. With evaluation during training and a judge, reward and score are those of the held-out
answers (metrics/held_out.jsonl); else those of the samples that were trained on, which the evaluation judged
(metrics/evaluate.jsonl).
The KL is that of the samples: a step's line tells of those that the version before it gave.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from scale_rlhf.algorithms.overoptimisation import FEWEST, Parting, Point, frontier, normalised, parting, smoothed
from scale_rlhf.telemetry.charts import figure
from scale_rlhf.telemetry.metrics import read_metrics
from scale_rlhf.telemetry.svg import Series, dot_chart, line_chart

HELD_OUT, TRAINED = "answers to held-out prompts, during training", "the samples that PPO was trained on"


@dataclass(frozen=True)
class Found:
    """points: by version. kept: where the nearest model or checkpoint to the parting is, and its version."""

    points: list[Point]
    source: str
    parting: Parting | None
    front: list[Point]
    kept: tuple[str, int] | None

    def sentence(self) -> str:
        """What there is to say."""
        if len(self.points) < FEWEST:
            return f"{len(self.points)} versions were judged; from {FEWEST} on it can be said whether reward and judge part."
        if self.parting is None:
            return ("Reward and judge do not part: the judge's score does not fall for good, by more than its noise, while the "
                    "reward rises.")
        best, seen = self.parting.best, self.parting.seen
        near = f" The nearest that was kept: {self.kept[0]} (version {self.kept[1]})." if self.kept else " No model was kept."
        return (f"Reward and judge part at version {best.version} (√KL {best.distance:.2f}): by the last one the reward has "
                f"changed by {self.parting.reward_change:+.3g} and the judge's score by {self.parting.score_change:+.3g}. Both "
                f"are beyond their noise (the judge's is {self.parting.noise:.2g}) from version {seen.version} on.{near}")


def find(path: Path) -> Found | None:
    """Of the run in that folder; None where no judge scored its versions."""
    metrics = {stage: read_metrics(path / "metrics" / f"{stage}.jsonl") for stage in ("ppo", "held_out", "evaluate")}
    kl = {row["step"] - 1: row["kl/reference_mean"] for row in metrics["ppo"] if row.get("kl/reference_mean") is not None}
    points, source = _points(metrics["held_out"], 0, "evaluate/reward", "evaluate/score", kl), HELD_OUT
    if not points:
        points, source = _points(metrics["evaluate"], -1, "reward/score_mean", "true/score", kl), TRAINED
    if not points:
        return None
    found = parting(points)
    return Found(points, source, found, frontier(points), found and nearest(path, found.best.version))


def nearest(path: Path, version: int) -> tuple[str, int] | None:
    """The model or checkpoint in a run's folder whose version is nearest, a model before a checkpoint; None without any."""
    exported, checkpoints = path.glob("models/ppo-step-*"), path.glob("ppo/checkpoints/step-*")
    kept = [(str(one.relative_to(path)), int(one.name.rpartition("-")[2])) for one in (*sorted(exported), *sorted(checkpoints))]
    return min(kept, key=lambda one: abs(one[1] - version), default=None)


def write(path: Path) -> str:
    """Write evaluation/overoptimisation.json; returns the sentence, "" where there is nothing to say."""
    found = find(path)
    if found is None:
        return ""
    place = path / "evaluation" / "overoptimisation.json"
    said = {
        "said": found.sentence(), "points_are": found.source, "parting": found.parting and asdict(found.parting),
        "nearest_kept": found.kept and {"path": found.kept[0], "version": found.kept[1]},
        "frontier": [point.version for point in found.front], "points": [asdict(point) for point in found.points],
    }
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return found.sentence()


def overoptimisation_section(path: Path) -> str:
    """HTML; "" where no judge scored what the policy said while it was trained."""
    found = find(path)
    if found is None:
        return ""
    said = f'<p class="soft">{escape(found.sentence())} The points: {escape(found.source)}.</p>'
    return f'<h2>Over-optimisation</h2>{said}<div class="charts">{_both(found)}{_front(found)}</div>'


def _both(found: Found) -> str:
    """Reward and judge over √KL, each as a share of its own largest change, smoothed as the parting is looked for."""
    half = max(1, len(found.points) // 16) if len(found.points) >= FEWEST else 0
    curves = {}
    for name in ("reward", "score"):
        shares = normalised(smoothed([getattr(point, name) for point in found.points], half))
        places = zip(found.points, shares, strict=True)
        curves[name] = sorted((point.distance, share) for point, share in places)
    series = [Series("training reward", curves["reward"]), Series("judge", curves["score"])]
    if found.parting:
        place, ends = found.parting.best.distance, [y for curve in curves.values() for _, y in curve]
        series.append(Series(f"they part: version {found.parting.best.version}", [(place, min(ends)), (place, max(ends))]))
    note = "Each from where it begins, as a share of its largest change (Gao, Schulman and Hilton 2022)."
    picture = line_chart(series, x_label="√KL to the reference, nats a response")
    return figure("Reward and judge over √KL", picture, [one.name for one in series], note)


def _front(found: Found) -> str:
    dots = Series("a version", sorted((point.kl, point.score) for point in found.points))
    front = Series("no other is as good at as little KL", [(point.kl, point.score) for point in found.front])
    picture = dot_chart(dots, front, x_label="KL to the reference, nats a response")
    newest = found.front[-1]
    note = f"The best score is that of version {newest.version}, at {newest.kl:.2f} nats."
    return figure("The judge's score against KL", picture, [dots.name, front.name], note)


def _points(
    rows: Sequence[Mapping], shift: int, reward: str, score: str, kl: Mapping[int, float],
) -> list[Point]:
    """shift: from a row's step to its version. Of the last version no samples tell the KL: it has that of the one before."""
    made = []
    for row in rows:
        version = row["step"] + shift
        known = kl.get(version, kl.get(version - 1))
        if known is not None and row.get(reward) is not None and row.get(score) is not None:
            made.append(Point(version, known, row[reward], row[score]))
    return made
