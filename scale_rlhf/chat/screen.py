"""How answers are shown: side by side while they come on a terminal, one under the other elsewhere."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scale_rlhf.chat.panel import Panel
from scale_rlhf.chat.voice import Answer
from scale_rlhf.redaction import printable

NARROWEST = 26  # characters of a column; with less room for each, answers stand one under the other
_STATES = {"answers": "…", "ended": "", "cut": "cut off", "stopped": "stopped",
           "full": "too long a conversation: /new begins again"}


def show(panel: Panel, question: str, console: Console) -> None:
    """Ask, and show what comes: as it comes where the console is a terminal."""
    if not console.is_terminal:
        answers = panel.ask(question, lambda _: None)
        console.print(*(block(answer) for answer in answers), sep="\n", highlight=False, soft_wrap=True)
        return
    # What is drawn again and again fits the screen; the whole stays when it is done.
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        answers = panel.ask(question, lambda so_far: live.update(Beside(so_far)))
    console.print(Beside(answers))


def block(answer: Answer) -> Text:
    """The model's name, what there is to say about its answer, and the answer under it."""
    said = printable(answer.text.strip()) if answer.text.strip() else "(nothing)"
    return Text.assemble((answer.name, "bold"), f"  ({about(answer)})\n" if about(answer) else "\n", said, "\n")


def about(answer: Answer) -> str:
    """Its score, its length, and how it came to its end."""
    score = "" if answer.score is None else f"reward {answer.score:.2f}"
    tokens = f"{answer.tokens} token{'s' * (answer.tokens != 1)}" if answer.tokens else ""
    return ", ".join(part for part in (score, tokens, _STATES[answer.state]) if part)


class Beside:
    """Answers in columns, or one under the other where the terminal is too narrow."""

    def __init__(self, answers: Sequence[Answer]):
        self.answers = answers

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < NARROWEST * len(self.answers):
            yield from (block(answer) for answer in self.answers)
            return
        grid = Table(expand=True, show_footer=True, footer_style="dim")
        for answer in self.answers:
            grid.add_column(Text(answer.name), Text(about(answer)), ratio=1, overflow="fold")
        grid.add_row(*(Text(printable(answer.text.strip())) for answer in self.answers))
        yield grid
