"""Which curves the report shows, from the metrics of a run's stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from scale_rlhf.telemetry.spans import Span
from scale_rlhf.telemetry.svg import Series, line_chart, stacked_chart
from scale_rlhf.telemetry.timeline_svg import STEPS, timeline_svg

Metrics = Mapping[str, Sequence[Mapping]]  # rows of metrics/STAGE.jsonl, by stage


@dataclass(frozen=True)
class Chart:
    """keys: metric keys of `stage` → the name of the line. Keys that a run did not log are left out."""

    title: str
    stage: str
    keys: dict[str, str]
    from_zero: bool = False
    note: str = ""


QUALITY = (
    Chart("Reward-model score", "ppo", {"reward/score_mean": "reward-model score"}, note="What PPO maximises."),
    Chart(
        "True score of the same answers",
        "evaluate",
        {"true/score": "true score"},
        note="What people want. If it falls while the reward-model score rises, the policy exploits the reward model.",
    ),
    Chart(
        "Helpful, honest, harmless", "evaluate", {"true/helpful": "helpful", "true/honest": "honest", "true/harmless": "harmless"}
    ),
    Chart("Training reward on held-out prompts", "held_out", {"evaluate/reward": "reward"}, note="By version, during training."),
    Chart("The judge on held-out prompts", "held_out", {"evaluate/score": "judge"}, note="The same answers."),
    Chart("KL to the reference, nats a response", "ppo", {"kl/reference_mean": "KL"}, from_zero=True),
    Chart("Reward after the KL penalty", "ppo", {"reward/total_mean": "score − β·KL"}),
    Chart("Response length, tokens", "ppo", {"response/tokens_mean": "tokens"}, from_zero=True),
    Chart("Responses that end", "ppo", {"response/ended_share": "share"}, from_zero=True),
)
TRAINING = (
    Chart("Value error", "ppo", {"value/value_error": "value error"}, from_zero=True),
    Chart("Value loss", "ppo", {"value/update_loss": "value loss"}, from_zero=True),
    Chart("Explained variance of the value", "ppo", {"value/explained_variance": "explained variance"}),
    Chart("Policy loss", "ppo", {"policy/loss": "policy loss"}),
    Chart("Entropy, nats a token", "ppo", {"policy/entropy": "entropy"}, from_zero=True),
    Chart("Clip fraction", "ppo", {"policy/clip_fraction": "clip fraction"}, from_zero=True),
    Chart("Approximate KL of an update", "ppo", {"policy/approximate_kl": "approximate KL"}, from_zero=True),
    Chart("Gradient norms", "ppo", {"policy/gradient_norm": "policy", "value/update_gradient_norm": "value"}, from_zero=True),
    Chart("KL coefficient β", "ppo", {"kl/coefficient": "β"}, from_zero=True),
    Chart(
        "Engine against trainer, log-probability gap",
        "ppo",
        {"parity/gap_mean": "mean", "parity/gap_max": "largest"},
        from_zero=True,
        note="On a fixed probe, at the same version of the weights.",
    ),
    Chart("Tokens a second", "ppo", {"tokens/per_second": "tokens a second"}, from_zero=True),
)
OVERLAP = (
    Chart(
        "Idle share by role",
        "ppo",
        {f"idle/{role}": role for role in ("rollout", "reward", "reference", "policy", "value")},
        from_zero=True,
        note="The lowest line is the role that the others wait for.",
    ),
    Chart(
        "Bubble: a step beyond its slowest role, seconds",
        "ppo",
        {"time/bubble": "bubble", "time/wait_batch": "waiting for a batch"},
        from_zero=True,
    ),
    Chart("Staleness of samples, versions", "ppo", {"staleness/mean": "mean", "staleness/max": "oldest"}, from_zero=True),
    Chart("Samples that span versions", "ppo", {"staleness/spanning_share": "share"}, from_zero=True),
    Chart(
        "Policy against the samples' log-probabilities",
        "ppo",
        {"policy/gap_mean": "mean", "policy/gap_p99": "99th percentile"},
        from_zero=True,
        note="Before each update: zero but for rounding when synchronous, what staleness costs otherwise.",
    ),
    Chart("Effective sample size, share of tokens", "ppo", {"policy/effective_share": "share"}, from_zero=True),
    Chart(
        "Publishing weights, seconds",
        "ppo",
        {
            "time/publish": "learner hands over",
            "weights/stage_seconds": "engines fetch, decoding on",
            "weights/stopped_seconds": "decoding stopped",
        },
        from_zero=True,
    ),
    Chart("Queues, samples", "ppo", {"queue/in_flight": "in flight", "queue/buffer": "scored, waiting"}, from_zero=True),
)
SUPERVISED = (
    Chart("Base model: loss", "base", {"loss": "loss"}),
    Chart("Instruction tuning: loss", "sft", {"loss": "loss", "held_out_loss": "held out"}),
    Chart("Reward model: loss", "reward", {"loss": "loss"}, from_zero=True),
    Chart("Reward model: accuracy on its batches", "reward", {"accuracy": "accuracy"}),
    Chart("Best of n: loss", "best_of_n", {"loss": "loss"}),
    Chart("Preferences without a reward model: loss", "dpo", {"loss": "loss"}),
    Chart(
        "Preferences without a reward model: pairs ranked right",
        "dpo",
        {"accuracy": "its batches", "held_out_accuracy": "held out"},
    ),
)
ROLES = {
    "time/generate": "rollout",
    "time/score": "reward",
    "time/reference": "reference",
    "time/value_prepare": "value, before the update",
    "time/update_policy": "policy update",
    "time/update_value": "value update",
    "time/publish": "publishing weights",
}


def draw(charts: Sequence[Chart], metrics: Metrics) -> list[str]:
    """HTML figures of the charts for which there are numbers."""
    figures = []
    for chart in charts:
        rows = metrics.get(chart.stage, ())
        series = [Series(name, points) for key, name in chart.keys.items() if (points := curve(rows, key))]
        if series:
            figures.append(
                figure(chart.title, line_chart(series, from_zero=chart.from_zero), [one.name for one in series], chart.note)
            )
    return figures


def draw_times(metrics: Metrics) -> list[str]:
    """Seconds of a step by role, stacked; the line is the step's own time, under the stack where roles work at once."""
    rows = [row for row in metrics.get("ppo", ()) if any(row.get(key) is not None for key in ROLES)]
    series = [
        Series(name, [(row["step"], row.get(key) or 0.0) for row in rows])
        for key, name in ROLES.items()
        if any(row.get(key) is not None for row in rows)
    ]
    if not series:
        return []
    whole = curve(rows, "time/step")
    picture = stacked_chart(series, total=Series("the whole step", whole) if whole else None)
    note = "The dashed line is the whole step: it is lower than the stack where roles work at the same time." if whole else ""
    return [figure("Time of a step by role, seconds", picture, [one.name for one in series], note, always_named=True)]


def draw_timeline(lanes: Mapping[str, Sequence[Span]]) -> list[str]:
    """What every actor did, over a few steps in the middle of the run."""
    picture = timeline_svg(lanes)
    names = ["decode", "score", "values", "update", "weights", "fetch weights", "wait for a batch"]
    note = f"{STEPS} steps in the middle of the run. All of it: timeline.json, in ui.perfetto.dev or chrome://tracing."
    return [figure("What each actor did", picture, names, note, always_named=True)] if picture else []


def curve(rows: Sequence[Mapping], key: str) -> list[tuple[float, float]]:
    """(step, value) where there is a value; null in the file was not a number."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def figure(title: str, picture: str, names: Sequence[str], note: str, *, always_named: bool = False) -> str:
    """A picture with its title, and its colours named where there are several."""
    legend = ""
    if always_named or len(names) > 1:
        keys = "".join(f'<span class="key"><i class="b{number}"></i>{escape(name)}</span>' for number, name in enumerate(names))
        legend = f'<div class="legend">{keys}</div>'
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{picture}{said}</figure>"
