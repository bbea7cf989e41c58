"""What a person reads while a run goes on and when it ends."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from scale_rlhf.config.schema import STAGES
from scale_rlhf.orchestration.run_folder import RunFolder


def stage_line(stage: str, seconds: float, summary: Mapping[str, float | str], console: Console) -> None:
    """One line: the stage, its time, its numbers."""
    numbers = ", ".join(f"{name} {_shown(value)}" for name, value in summary.items())
    line = f"{stage} done in {duration(seconds)}{': ' + numbers if numbers else ''}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def final_table(folder: RunFolder, console: Console) -> None:
    """Seconds and peak memory of each stage, what was made, and what to do next."""
    state = folder.state()
    table = Table(title=f"run {folder.name}", title_justify="left")
    table.add_column("stage")
    table.add_column("time", justify="right")
    table.add_column("peak memory", justify="right")
    stages = {name: stage for name, stage in state["stages"].items() if stage["state"] == "done"}
    for name, stage in stages.items():
        table.add_row(name, duration(stage["seconds"]), f"{stage['peak_memory_gb']:.1f} GB")
    peak = max((stage["peak_memory_gb"] for stage in stages.values()), default=0.0)
    table.add_row("all", duration(state.get("seconds", 0)), f"{peak:.1f} GB", style="bold")
    console.print(table)
    for line in _next(folder, stages):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _next(folder: RunFolder, stages: Mapping[str, dict]) -> list[str]:
    made = [name for name in STAGES if (folder.model(name) / "config.json").is_file()]
    lines = [f"models:  {folder.model(name)}" for name in made]
    if (folder.path / "report.html").is_file():
        lines.append(f"report:  {folder.path / 'report.html'}")
    lines.append(f"curves:  tensorboard --logdir {folder.path / 'tensorboard'}")
    aligned = next((name for name in ("ppo", "dpo", "best_of_n") if name in made), None)
    if aligned and "evaluate" not in stages:
        lines.append(f"next:    scale-rlhf evaluate {folder.path / 'config.yaml'} policy.model={folder.model(aligned)}")
    return lines


def duration(seconds: float) -> str:
    """12.3 s, or 3 min 20 s."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
