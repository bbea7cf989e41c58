"""The chat as its user sees it: a line in, everybody's answer out, until they have had enough."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console

from scale_rlhf.chat.panel import Panel
from scale_rlhf.chat.screen import show
from scale_rlhf.chat.settings import Wishes, cluster_config
from scale_rlhf.chat.speakers import Speaker, scorer, speakers
from scale_rlhf.cluster.processes import ProcessWatch
from scale_rlhf.cluster.ray_cluster import session
from scale_rlhf.cluster.signals import interruptible
from scale_rlhf.stages.runner import prepare_process

HELP = "/new begins a new conversation, /quit (or Ctrl-D) ends the chat, Ctrl-C stops an answer."
_ENDED = 128 + signal.SIGTERM  # exit status, as a shell gives it


def chat(named: Sequence[str], wishes: Wishes, *, reward: str | None = None, chat_template: str | None = None) -> None:
    """Talk to several models at once, until the input ends. Nothing is left behind after it.

    named: model folders, hub names or folders of runs. reward: one of these, to score with. Raises ConfigError before
    anything starts where one is not there or does not do; RunError where an engine fails.
    """
    console = Console()
    who = speakers(named, chat_template)
    judge = scorer(reward, who)
    seats = len(who) + (judge is not None)
    config = cluster_config(seats)
    prepare_process(config)
    panel = Panel(who, judge, wishes)
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        watch = stack.enter_context(ProcessWatch())
        with console.status("starting"):
            stack.enter_context(session(config, watch))
            stack.enter_context(interruptible())  # again: ray.init took the handler of SIGTERM
            stack.enter_context(panel)
        ended = stack.enter_context(_ended_by_sigterm())
        _introduce(who, judge, console)
        try:
            _talk(panel, _lines(console), console, ended)
        except KeyboardInterrupt:
            if not ended:
                raise
        if ended:
            sys.exit(_ENDED)


def _talk(panel: Panel, lines: Iterator[str], console: Console, ended: Sequence[int]) -> None:
    for line in lines:
        if line == "/quit":
            return
        if line == "/new":
            panel.begin_again()
            console.print("A new conversation.", style="dim")
        elif line.startswith("/"):
            console.print(f"There is no {line.split()[0]}. {HELP}", style="dim", markup=False, highlight=False)
        elif line:
            show(panel, line, console)
        if ended:
            return


def _introduce(who: Sequence[Speaker], judge: Speaker | None, console: Console) -> None:
    scored = f"scored by {judge.path}" if judge else "not scored: no run of theirs has a reward model, and --reward names none"
    for line in (*(f"{one.name}: {one.path}" for one in who), scored, HELP):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _lines(console: Console) -> Iterator[str]:
    """What the user says, a line at a time: typed at a terminal, with its history; else whatever comes, shown once more."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            console.print(f"> {line.strip()}", style="bold", markup=False, highlight=False, soft_wrap=True)
            yield line.strip()
        return
    import readline  # noqa: F401  -- gives `input` its editing

    while (line := _typed(console)) is not None:
        yield line


def _typed(console: Console) -> str | None:
    try:
        return input("> ").strip()
    except EOFError:
        console.print()
        return None
    except KeyboardInterrupt:
        console.print(f"\n{HELP}", style="dim", markup=False, highlight=False)
        return ""


@contextmanager
def _ended_by_sigterm() -> Iterator[Sequence[int]]:
    """Inside, SIGTERM stops whatever goes on, as Ctrl-C does, and then stands in what this gives: the chat is to end."""
    ended: list[int] = []

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what follows is clean-up
        ended.append(number)
        signal.raise_signal(signal.SIGINT)  # an asyncio loop that runs meanwhile cancels its task in its own way

    before: Callable | int | None = signal.signal(signal.SIGTERM, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)
