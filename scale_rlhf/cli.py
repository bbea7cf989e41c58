"""The commands, and nothing else. What a command needs is imported when it runs: `config` answers without torch."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from scale_rlhf.data.commands import app as data_commands
from scale_rlhf.errors import ConfigError, UserError
from scale_rlhf.launching.commands import app as cluster_commands

MENDABLE = 2  # exit status where the message says what to mend
STOPPED = 130  # exit status of a run that Ctrl-C ended
SUPERVISED = ("run", "sft", "reward", "best-of-n", "dpo", "ppo", "evaluate", "resume")


class Commands(typer.core.TyperGroup):
    """Ends with a message, not a traceback, where the user can mend what is wrong."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"scale-rlhf: {error}", err=True)
            raise typer.Exit(MENDABLE) from error
        except KeyboardInterrupt:
            raise typer.Exit(STOPPED) from None


app = typer.Typer(
    cls=Commands, help="Reinforcement learning from human feedback, from two cores to a cluster.",
    add_completion=False, no_args_is_help=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cluster_commands)
app.add_typer(data_commands, name="data")

Config = Annotated[Path, typer.Argument(help="YAML file of the run, such as configs/quickstart.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Laid over the file.", show_default=False),
]
RunDir = Annotated[Path, typer.Argument(help="Folder of the run, such as runs/quickstart.", show_default=False)]
GoOn = Annotated[bool, typer.Option("--go-on", help="Go on with the newest run of that name where it is not done, unasked; "
                                                   "else begin. For jobs that are started again.")]
Force = Annotated[bool, typer.Option("--force", help="Also with changes that make it another run: model, data, seed.")]


def _version(wanted: bool) -> None:
    if wanted:
        from scale_rlhf import __version__

        typer.echo(f"scale-rlhf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def run(config: Config, overrides: Overrides = None, go_on: GoOn = False) -> None:
    """Run all stages of a configuration in a new run folder."""
    from scale_rlhf.config.load import load_config

    loaded = load_config(config, overrides or ())
    left = _unfinished(loaded, go_on)
    from scale_rlhf.stages import runner

    if left is None:
        runner.run(loaded)
    elif go_on:
        runner.go_on(left, loaded)
    else:
        runner.resume(left)


@app.command()
def sft(config: Config, overrides: Overrides = None) -> None:
    """Instruction tuning alone."""
    _single("sft", config, overrides)


@app.command()
def reward(config: Config, overrides: Overrides = None) -> None:
    """The reward model alone."""
    _single("reward", config, overrides)


@app.command("best-of-n")
def best_of_n(config: Config, overrides: Overrides = None) -> None:
    """Rejection sampling alone: the best of several answers to each prompt are learned."""
    _single("best_of_n", config, overrides)


@app.command()
def dpo(config: Config, overrides: Overrides = None) -> None:
    """Alignment without a reward model alone: DPO, IPO, cDPO or KTO."""
    _single("dpo", config, overrides)


@app.command()
def ppo(config: Config, overrides: Overrides = None) -> None:
    """Reinforcement learning alone."""
    _single("ppo", config, overrides)


@app.command()
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Evaluation alone."""
    _single("evaluate", config, overrides)


@app.command()
def resume(run_dir: RunDir, overrides: Overrides = None, force: Force = False) -> None:
    """Go on with a run at its first stage that is not done, from that stage's last checkpoint."""
    from scale_rlhf.stages import runner

    runner.resume(run_dir, overrides or (), force)


@app.command("config")
def show_config(config: Config, overrides: Overrides = None) -> None:
    """Validate a configuration and print it resolved; starts nothing."""
    from scale_rlhf.config.checks import check
    from scale_rlhf.config.load import dump, load_config
    from scale_rlhf.redaction import without_secrets

    loaded = load_config(config, overrides or ())
    try:
        notes = check(loaded, starts=False)
    except ConfigError:
        _show_sizes(loaded)
        raise
    typer.echo(without_secrets(dump(loaded)), nl=False)
    _show_sizes(loaded)
    for note in notes:
        typer.echo(f"# {note}", err=True)


@app.command()
def chat(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders, hub names, or folders of runs: then "
                                                "base, SFT, PPO and what else the run has made.", show_default=False)],
    reward: Annotated[str | None, typer.Option(metavar="MODEL", help="Reward model that scores the answers, or the folder of a "
                                               "run with one; else that of the models' run.", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0: greedy. Else evaluation.temperature of the run, or 0.7.",
                                                      show_default=False)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer. Else rollout.max_response_tokens of its run; 256.",
                                                   show_default=False)] = None,
    system: Annotated[str | None, typer.Option(help="A message of the system that every conversation begins with.",
                                               show_default=False)] = None,
    chat_template: Annotated[str | None, typer.Option(metavar="FILE", help="Jinja chat template, instead of the models' own.",
                                                      show_default=False)] = None,
) -> None:
    """The same question to several models, answered side by side; with the reward model's score of each answer."""
    from scale_rlhf.chat.session import chat
    from scale_rlhf.chat.settings import Wishes

    chat(models, Wishes(temperature, max_tokens, system), reward=reward, chat_template=chat_template)


@app.command()
def top(
    run_dir: RunDir,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, and end.")] = False,
) -> None:
    """Watch a run: roles, rates, queues, last faults, progress and time left. Reads its folder, and needs no Ray."""
    from scale_rlhf.orchestration.run_folder import RunFolder
    from scale_rlhf.telemetry.top import top

    top(RunFolder.open(run_dir), once)


@app.command()
def dashboard(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("monitoring"),
    ray_temp: Annotated[Path, typer.Option(help="Ray's temporary folder on the machine of Prometheus.")] = Path("/tmp/ray"),
    address: Annotated[str | None, typer.Option(help="Ray's dashboard, such as http://head:8265, to ask for the cluster's nodes; "
                                                     "where Prometheus is not on Ray's head.", show_default=False)] = None,
) -> None:
    """Write the Grafana board, the configuration of Prometheus and its alerts."""
    from scale_rlhf.telemetry.monitoring import STARTS, write

    for file in write(out, ray_temp, address):
        typer.echo(file)
    typer.echo(STARTS.format(out=out))


def _show_sizes(config) -> None:
    """What every role takes of its GPU, as comments beside the YAML."""
    from scale_rlhf.config.checks import stages_of
    from scale_rlhf.config.sizing.plan import plan
    from scale_rlhf.config.sizing.table import table

    try:
        for line in table(config, plan(config, stages_of(config))):
            typer.echo(f"# {line}", err=True)
    except ConfigError:
        pass  # among the mistakes that are told


def _unfinished(config, go_on: bool) -> Path | None:
    """The run of that name that is not done, if it is wanted: by --go-on, or by whoever sits here. A script gets a new run."""
    from scale_rlhf.orchestration.run_folder import unfinished
    from scale_rlhf.orchestration.run_lock import at_work

    left = unfinished(Path(config.run.folder), config.run.name)
    if left is None or go_on:
        return left.path if left else None
    if who := at_work(left.path):
        typer.echo(f"{left.path}: {who} works at it; a new run begins beside it")
        return None
    typer.echo(f"{left.path} is not done: {', '.join(left.stages_left())}. scale-rlhf resume {left.path} goes on with it")
    return left.path if sys.stdin.isatty() and typer.confirm("Go on with it, instead of beginning a new run?") else None


def _single(stage: str, config: Path, overrides: list[str] | None) -> None:
    """One stage, in a run folder named after the run and the stage unless the name is given on the command line."""
    from scale_rlhf.config.load import load_config

    loaded = load_config(config, overrides or ())
    if not any(override.startswith("run.name=") for override in overrides or ()):
        loaded.run.name = f"{loaded.run.name}-{stage}"
    loaded.run.stages = [stage]
    from scale_rlhf.stages import runner

    runner.run(loaded)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exits with 0; 2 where the user can mend what is wrong, with a message alone; 130 after Ctrl-C.

    What makes a run is started as a process of its own, and started again should it be killed.
    """
    from scale_rlhf.orchestration.supervisor import FOLDER_FILE, supervise

    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in SUPERVISED and not {"-h", "--help"} & set(words) and FOLDER_FILE not in os.environ:
        me = [sys.executable, "-m", "scale_rlhf.cli"]
        sys.exit(supervise([*me, *words], lambda folder: [*me, "resume", folder]))
    app(args=arguments, prog_name="scale-rlhf")


if __name__ == "__main__":
    main()
