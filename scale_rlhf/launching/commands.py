"""The commands for a run on a cluster: submit, status, logs, stop, doctor. What a command needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Laid over the file.", show_default=False),
]
Address = Annotated[str | None, typer.Option(
    help="Of the cluster's dashboard, such as http://HEAD:8265. Otherwise RAY_API_SERVER_ADDRESS, or this machine's.",
    show_default=False,
)]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, or id of its job.", show_default=False)]
Code = Annotated[Path | None, typer.Option(
    help="Folder to send with the run. Otherwise the one from which its functions are imported.", show_default=False,
)]
Fits = Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file of a run that is to fit.", show_default=False)]
Place = Annotated[str | None, typer.Option(
    "--address", help="A cluster: http://HEAD:8265, or auto or HEAD:6379 on one of its nodes. Otherwise this machine.",
    show_default=False,
)]


@app.command()
def submit(
    config: Annotated[Path, typer.Argument(help="YAML file of the run; with --resume the run's folder.", show_default=False)],
    overrides: Overrides = None, address: Address = None, code: Code = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run, whose folder is given instead of a file.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once, instead of showing the log to the end.")] = False,
) -> None:
    """Hand a run to a Ray cluster; shows its log, and ends with its exit status. Ctrl-C lets go of it, and it goes on."""
    from scale_rlhf.launching.following import come_back, follow
    from scale_rlhf.launching.jobs import JobServer
    from scale_rlhf.launching.submitting import hand_in, new_run, resumed

    wanted = resumed(str(config), overrides or (), code) if resume else new_run(config, overrides or (), code)
    for note in wanted.notes:
        _tell(f"note: {note}")
    server = JobServer(address)
    job = server.job(hand_in(server, wanted))
    _tell(f"{wanted.run} is job {job.id} of {server.address}")
    if detach:
        return _tell(come_back(job, server.address))
    _follow(follow, server, job)


@app.command()
def status(run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Otherwise all that the cluster has.")] = None,
           address: Address = None) -> None:
    """Where a run on a cluster stands: state, stage, step, since when, its last line."""
    from rich.console import Console

    from scale_rlhf.launching import status as show
    from scale_rlhf.launching.jobs import JobServer
    from scale_rlhf.launching.run_log import progress

    server = JobServer(address)
    if run is None:
        return Console().print(show.table(server.jobs()))
    job = server.find(run)
    older = [one for one in server.jobs() if job.run and one.run == job.run and one.id != job.id]
    for line in show.lines(job, progress(server.log(job.id)), older):
        typer.echo(line)


@app.command()
def logs(run: Run, address: Address = None,
         follow: Annotated[bool, typer.Option(help="Go on to the run's end, and end with its exit status.")] = True) -> None:
    """The log of a run on a cluster."""
    from scale_rlhf.launching import following
    from scale_rlhf.launching.jobs import JobServer

    server = JobServer(address)
    job = server.find(run)
    if not follow:
        return typer.echo(server.log(job.id), nl=False)
    _follow(following.follow, server, job)


@app.command()
def stop(run: Run, address: Address = None) -> None:
    """End a run on a cluster cleanly, as Ctrl-C does, so that it can go on later."""
    from scale_rlhf.launching.following import stop as ask
    from scale_rlhf.launching.jobs import JobServer
    from scale_rlhf.launching.submitting import STOP_SECONDS

    server = JobServer(address)
    ask(server, server.find(run), STOP_SECONDS, typer.echo)


@app.command()
def doctor(
    config: Fits = None, overrides: Overrides = None, address: Place = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """What this machine or a cluster lacks, each with its cure; exit status 1 where a run would fail of it."""
    from rich.console import Console

    from scale_rlhf.config.load import load_config
    from scale_rlhf.doctor import show

    loaded = load_config(config, overrides or ()) if config else None
    if address and "://" in address:
        from scale_rlhf.launching.jobs import JobServer
        from scale_rlhf.launching.remote_doctor import examine_there

        facts, found = examine_there(JobServer(address), loaded)
    else:
        from scale_rlhf.doctor.examine import examine

        facts, found = examine(address, loaded)
    typer.echo(show.as_json(facts, found)) if as_json else show.print_report(facts, found, Console())
    raise typer.Exit(0 if show.healthy(found) else 1)


def _follow(follow, server, job) -> None:
    from scale_rlhf.launching.following import come_back

    try:
        code = follow(server, job, lambda text: typer.echo(text, nl=False), _tell)
    except KeyboardInterrupt:
        _tell(f"let go of {job.id}, which goes on. {come_back(job, server.address)}; "
              f"end it with: scale-rlhf stop {job.id} --address {server.address}")
        raise
    raise typer.Exit(code)


def _tell(line: str) -> None:
    typer.echo(f"scale-rlhf: {line}", err=True)
