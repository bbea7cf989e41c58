"""The byte table of a plan, and what is wrong with it, as text."""

from collections.abc import Iterator

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.sizing.cures import cured, shown
from scale_rlhf.config.sizing.needs import PARTS, Need
from scale_rlhf.config.sizing.plan import GB, Plan, StagePlan

_HEAD = ("role", "processes", "GPUs", "model", *PARTS, "total", "most at", "host")
_NONE = "–"


def table(config: RunConfig, plan: Plan) -> list[str]:
    """Lines: a table for each stage that uses GPUs, GB (10⁹ bytes) a GPU. None where no role uses one."""
    if not plan.stages:
        return []
    cluster = config.cluster
    size = f"of {cluster.gpu_gb:g} GB" if cluster.gpu_gb else "of a size that is not given (cluster.gpu_gb)"
    there = f"{cluster.nodes} × {cluster.gpus_per_node} GPUs {size}" if cluster.gpus_per_node else f"GPUs {size}"
    lines = [f"GB a GPU, by arithmetic (docs/sizing.md); planned for {there}"]
    for stage in plan.stages:
        lines += _stage(stage)
    return lines


def mistakes(config: RunConfig, plan: Plan) -> Iterator[str]:
    """A message for each thing that does not fit, with what would make it fit."""
    for one in cured(config, plan):
        cures = "It fits with " + "; or with ".join(map(shown, one.cures)) if one.cures else "Nothing that was tried makes it fit"
        yield f"{one.problem.text}. {'The first cure of what is told above makes it fit' if one.before else cures}"


def _stage(stage: StagePlan) -> list[str]:
    rows = [_HEAD, *(_row(need) for need in stage.needs)]
    empty = {place for place in range(len(_HEAD)) if all(row[place] == _NONE for row in rows[1:])}
    rows = [[cell for place, cell in enumerate(row) if place not in empty] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"stage {stage.stage}: {stage.gpus:g} GPUs", *(f"  {line}" for line in lines),
            *(f"  {need.note}" for need in stage.needs if need.note)]


def _row(need: Need) -> list[str]:
    return [need.role, str(need.processes), f"{need.gpus:g}", need.model, *(_gb(getattr(need, part)) for part in PARTS),
            _gb(need.total), need.moment, _gb(need.host)]


def _gb(size: int) -> str:
    return f"{size / GB:.1f}" if size else _NONE
