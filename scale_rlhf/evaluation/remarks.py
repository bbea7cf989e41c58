"""What must be said beside the numbers: how each judge was asked, what alignment cost, and which numbers not to trust."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scale_rlhf.telemetry.judged import HELD_OUT, RIGHT
from scale_rlhf.telemetry.measures import model_name


def remarks(table: Mapping[str, Any], foreign: Iterable[str]) -> list[str]:
    """Sentences for under the table. foreign: models whose tokens are not those of the run."""
    lines = [line for key, found in table["prompt_sets"].items() for judge, said in found["judges"].items()
             if (line := _how(judge, HELD_OUT if key == "held_out" else key, said))]
    judges = {judge for found in table["prompt_sets"].values() for judge, said in found["judges"].items() if not said["pairwise"]}
    if judges:
        lines.append(f"{', '.join(sorted(judges))}: one answer is scored at a time, so that order plays no part.")
    for key, found in table["prompt_sets"].items():
        right = [f"{model_name(name)} {RIGHT.shown(values['right'])}" for name, values in found.get("models", {}).items()
                 if values.get("right") is not None]
        if right:
            lines.append(f"Alignment tax, right answers on {key}: {', '.join(right)}.")
    if names := ", ".join(foreign):
        lines.append(f"{names}: no KL and no perplexity, as its tokens or its chat template are not those of the run's models.")
    return lines


def warnings(table: Mapping[str, Any], trained: Mapping[str, str]) -> list[str]:
    """What makes a number worth less than it looks. trained: judges that are the run's reward, as `independence` finds them."""
    lines = [f"{key} is {what} that the run trained against: it says how well it was pleased, not how good the answers are. Take "
             "its numbers for no judgement" for key, what in trained.items()]
    aligned = [name for name in ("best_of_n", "ppo") if name in table["models"]]
    by_reward = table["win_by"] == "reward-model score"
    if by_reward and any(table["models"][name].get("reward") is not None for name in aligned):
        lines.append("wins are by the very reward that the run trained against; name a judge that it did not, as "
                     "evaluation.judge or in evaluation.judges")
    return lines


def _how(judge: str, prompts: str, said: Mapping[str, Any]) -> str | None:
    if not said["pairwise"] or said.get("position_bias") is None:
        return None
    low, high = said["intervals"].get("position_bias", (None, None))
    interval = "" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return (f"{judge} on {prompts}: every pair was shown in both orders; it prefers what it is shown first by "
            f"{100 * said['position_bias']:.0f}{interval} points in a hundred, and decides {said['agreement']:.0%} of the pairs "
            "alike in both orders.")
