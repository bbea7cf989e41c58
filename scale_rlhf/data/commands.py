"""The commands about files of data: check, convert, stats. What a command needs is imported when it runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Check, convert and describe files of data (docs/data.md).")

FAULTY = 1  # exit status where rows are bad

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="JSONL, JSON, CSV (.gz too), Parquet, or a hub name.",
                                            show_default=False)]
HeldOut = Annotated[list[str] | None, typer.Option(
    "--held-out", help="A file of what is never to be trained on; its prompts must not be in FILE. May be given several times.",
    show_default=False,
)]
Columns = Annotated[list[str] | None, typer.Option(
    "--column", metavar="OURS=THEIRS", help="A column of another name, as `columns` in a configuration.", show_default=False,
)]
Split = Annotated[str, typer.Option(help="Of hub names.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read the first rows only.", show_default=False)]
Show = Annotated[int, typer.Option(min=0, help="Lines to name for each finding.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")]


@app.command()
def check(
    files: Files, held_out: HeldOut = None, column: Columns = None, split: Split = "train", limit: Limit = None, show: Show = 10,
    kind: Annotated[str | None, typer.Option(help="What every row must be, such as pair.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Read every row; name bad ones, duplicates, and prompts that are held out. Exit status 1 where rows are bad or leak."""
    from rich.console import Console

    from scale_rlhf.data import report

    found = _survey(files, held_out, column, split, limit, show, kind)
    if as_json:
        typer.echo(json.dumps(report.as_dict(found)))
    else:
        report.print_findings(found, Console())
    raise typer.Exit(0 if found.sound else FAULTY)


@app.command()
def stats(
    files: Files, held_out: HeldOut = None, column: Columns = None, split: Split = "train", limit: Limit = None, show: Show = 3,
    as_json: Json = False,
) -> None:
    """What is in the rows: kinds, sizes, ratings and how far raters agree, how often the longer response is preferred."""
    from rich.console import Console

    from scale_rlhf.data import report

    found = _survey(files, held_out, column, split, limit, show, kind=None)
    if as_json:
        typer.echo(json.dumps(report.as_dict(found)))
    else:
        report.print_figures(found, Console())


@app.command("convert")
def convert_(
    form: Annotated[str, typer.Argument(metavar="FORM", show_default=False,
                                        help="hh-rlhf, ultrafeedback, helpsteer or summarize-from-feedback.")],
    source: Annotated[str, typer.Argument(metavar="FILE", help="Of that form, or a hub name.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New .jsonl or .jsonl.gz file.", show_default=False)],
    split: Split = "train", limit: Limit = None, show: Show = 10,
) -> None:
    """Write a file of a common public form in ours. Bad rows are left out and named; the exit status is then 1."""
    from scale_rlhf.config.schema import DataSource
    from scale_rlhf.data.convert import named
    from scale_rlhf.data.convert.write import convert

    known = named(form)
    done = convert(known, DataSource(path=source, split=split, limit=limit), out, show)
    left_out = f"; {done.left_out:,} say nothing ({known.leaves_out})" if done.left_out else ""
    typer.echo(f"{out}: {done.written:,} rows from {done.read:,}{left_out}")
    for line in done.bad.lines:
        typer.echo(f"  {line}", err=True)
    if done.bad.count:
        typer.echo(f"{done.bad.count:,} bad rows left out", err=True)
        raise typer.Exit(FAULTY)


def _survey(files: list[str], held_out: list[str] | None, columns: list[str] | None, split: str, limit: int | None, show: int,
            kind: str | None):
    """Of all files, the held-out ones first."""
    from scale_rlhf.config.schema import DataSource
    from scale_rlhf.data.kinds import KINDS
    from scale_rlhf.data.rows import nearest
    from scale_rlhf.data.survey import Survey
    from scale_rlhf.errors import ConfigError

    if kind not in (None, *KINDS):
        raise ConfigError(f"--kind {kind}: no such kind; expected one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    names = {}
    for given in columns or ():
        ours, equals, theirs = given.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"--column {given}: expected OURS=THEIRS, such as prompt=question")
        names[ours] = theirs
    found = Survey(show, kind)
    for paths, are_held_out in ((held_out or (), True), (files, False)):
        for path in paths:
            found.read(DataSource(path=path, columns=names, split=split, limit=limit), are_held_out)
    return found
