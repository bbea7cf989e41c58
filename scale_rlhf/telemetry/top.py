"""`scale-rlhf top`: a run in the terminal, looked at again and again."""

import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scale_rlhf.orchestration.health import State
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.redaction import printable
from scale_rlhf.telemetry.progress import clock_time as clock
from scale_rlhf.telemetry.snapshot import Member, Snapshot, snapshot

_EVERY = 1.0  # seconds
_SILENT = 15.0  # seconds without news of the controller that are worth a word
_FAULTS = 5  # newest that are shown
_COLOURS = {"running": "cyan", "done": "green", "failed": "red", "stopped": "yellow", State.HEALTHY: "green", State.DEAD: "red"}
_SHOWN = (  # key of a step's line, what it is called, how it is written
    ("reward/score_mean", "score", "{:+.3f}"), ("kl/reference_mean", "KL", "{:.3g} nats"),
    ("policy/loss", "policy loss", "{:.3g}"), ("value/update_loss", "value loss", "{:.3g}"), ("loss", "loss", "{:.4g}"),
    ("response/tokens_mean", "response", "{:.0f} tokens"), ("staleness/mean", "staleness", "{:.2g}"),
    ("parity/gap_max", "engine gap", "{:.1e}"),
)


def top(folder: RunFolder, once: bool, console: Console | None = None) -> None:
    """Show the run until Ctrl-C or its end; one frame where `once`, or where nobody looks (a pipe)."""
    console = console or Console()
    if once or not console.is_terminal:
        console.print(frame(snapshot(folder)))
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        for seen in _looks(folder):
            live.update(frame(seen), refresh=True)


def _looks(folder: RunFolder) -> Iterator[Snapshot]:
    while True:
        seen = snapshot(folder)
        yield seen
        if all(state in ("done", "failed", "stopped") for _, state, _ in seen.stages):
            return
        time.sleep(_EVERY)


def frame(seen: Snapshot) -> RenderableType:
    """One picture of a run."""
    parts: list[RenderableType] = [_stages(seen), _progress(seen)]
    if seen.silent is not None and seen.silent > _SILENT:
        parts.append(Text(f"no news of the controller for {clock(seen.silent)}: it is gone, or hangs", "red"))
    if numbers := [f"{called} {form.format(value)}" for key, called, form in _SHOWN if (value := seen.last.get(key)) is not None]:
        parts.append(Text("  ".join(numbers)))
    if seen.members:
        parts.append(_roles(seen))
    if seen.queue:
        parts.append(Text("samples: " + ", ".join(f"{number:g} {what.replace('_', ' ')}" for what, number in seen.queue.items())))
    if seen.faults:
        parts.append(_last_faults(seen))
    return Group(*parts)


def _stages(seen: Snapshot) -> Text:
    line = Text.assemble((seen.name, "bold"))
    for name, state, seconds in seen.stages:
        took = "" if seconds is None else f" {clock(seconds)}"
        line.append(f"   {name} {state}{took}", _COLOURS.get(state, "dim"))
    return line


def _progress(seen: Snapshot) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    told = [f"{seen.stage} {seen.step}" + ("" if seen.steps is None else f"/{seen.steps}")]
    if seen.step_seconds is not None:
        told.append(f"{seen.step_seconds:.3g} s a step")
    if (rate := seen.last.get("tokens/per_second")) is not None:
        told.append(f"{rate:.0f} tokens a second")
    if (left := seen.seconds_left) is not None:
        told.append(f"about {clock(left)} left")
    bar = ProgressBar(total=seen.steps, completed=seen.step, width=30) if seen.steps else Text("")
    row.add_row(bar, *told)
    return row


def _roles(seen: Snapshot) -> Table:
    """A line a role; and a line for each of its processes that is not healthy."""
    table = Table(box=None, pad_edge=False)
    for heading in ("role", "state", "since", "busy", "tokens/s"):
        table.add_column(heading, justify="right" if heading in ("busy", "tokens/s") else "left", header_style="dim")
    for role in dict.fromkeys(member.role for member in seen.members):
        members = [member for member in seen.members if member.role == role]
        ill = [member for member in members if member.state != State.HEALTHY]
        healthy = len(members) - len(ill)
        state = Text(f"{healthy} of {len(members)} healthy", "green" if not ill else "yellow")
        table.add_row(role, state, "", _busy(members[0]), _rate(seen, role))
        for member in ill:
            state = Text(member.state, _COLOURS.get(member.state, "yellow"))
            table.add_row(f"  {member.name}", state, clock(member.since), "", "")
    return table


def _busy(member: Member) -> str:
    return "" if member.idle is None else f"{1 - member.idle:.0%}"


def _rate(seen: Snapshot, role: str) -> str:
    found = (seen.last.get(f"{role}{server}/tokens_per_second") for server in ("", "_server"))
    return next((f"{rate:.0f}" for rate in found if rate is not None), "")


def _last_faults(seen: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, title=f"last of {len(seen.faults)} faults", title_justify="left")
    for fault in seen.faults[-_FAULTS:]:
        at = time.strftime("%H:%M:%S", time.localtime(fault["at"]))
        why = printable((fault["why"].splitlines() or [""])[0])
        table.add_row(at, printable(fault["who"]), Text(why, overflow="ellipsis", no_wrap=True))
    return table
