"""Who is asked, and who scores: from what stands on the command line to models, each with the settings of its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scale_rlhf.config.load import load_config
from scale_rlhf.config.model_checks import CPU_HEAD_SIZES
from scale_rlhf.config.model_files import HubUnreachable, ModelFiles, model_files, pickled_weights
from scale_rlhf.config.resources import machine_gpus
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.orchestration.run_folder import STATE_FILE, RunFolder
from scale_rlhf.telemetry.measures import MODEL_NAMES, model_name


@dataclass(frozen=True)
class Speaker:
    """A model that answers, or the one that scores. config: of the run that made it, else the defaults."""

    name: str  # as people call it
    files: ModelFiles
    config: RunConfig
    run: Path | None = None  # whose run made it
    plain: bool = False  # made from plain text there: it knows of no chat, and is asked in a line of text

    @property
    def path(self) -> str:
        """Folder or hub name."""
        return self.files.path


def speakers(named: Sequence[str], chat_template: str | None = None) -> list[Speaker]:
    """The models that answer, in the order in which they are named; of a run's folder those that it has made.

    chat_template: file of a Jinja template, for models that have none or are to have another. Raises ConfigError where one is
    not there, cannot chat or cannot be served here.
    """
    found = [speaker for name in named for speaker in _of(name)]
    if chat_template:
        found = [replace(speaker, config=_with_template(speaker.config, chat_template)) for speaker in found]
    for speaker in found:
        _check(speaker)
    return _told_apart(found)


def scorer(given: str | None, among: Sequence[Speaker]) -> Speaker | None:
    """The reward model: the one that is given (a model or a run's folder), else that of the first run that `among` come from.

    None where there is none. Raises ConfigError where what is given is no reward model.
    """
    if given is None:
        return next((made for run in dict.fromkeys(one.run for one in among if one.run) if (made := _reward_of(run))), None)
    if _is_run(Path(given)):
        if made := _reward_of(Path(given)):
            return made
        expected = RunFolder(Path(given)).model("reward")
        raise ConfigError(f"--reward: the run {given} has no reward model; expected one at {expected}")
    found = _model(given, "--reward")
    if not _is_scorer(found.files):
        raise ConfigError(f"--reward: expected a sequence-classification model at {given}, "
                          f"found {found.files.config.get('architectures')}")
    return found


def _of(name: str) -> list[Speaker]:
    path = Path(name)
    if not _is_run(path):
        return [_model(name, "MODEL")]
    folder = RunFolder(path)
    made = [folder.model(stage) for stage in MODEL_NAMES if (folder.model(stage) / "config.json").is_file()]
    if not made:
        raise ConfigError(f"MODEL: the run {name} has made no model yet; expected one of {', '.join(MODEL_NAMES)} "
                          f"in {path / 'models'}")
    return [_model(str(model), "MODEL") for model in made]


def _model(name: str, key: str) -> Speaker:
    """One model, and the run that made it where its folder lies in one. key: of the command line, for messages."""
    try:
        files = model_files(name, key)
    except HubUnreachable:
        raise ConfigError(f"{key}: {name} is no folder here, nor in the hub's cache, and the hub cannot be reached") from None
    place = Path(name).absolute()
    run, stage = place.parent.parent, place.name
    if not files.local or place.parent.name != "models" or not _is_run(run):
        return Speaker(stage, files, RunConfig())
    config = load_config(run / "config.yaml")
    return Speaker(model_name(stage), files, config, run, plain=stage == "base" and config.base.model is None)


def _reward_of(run: Path) -> Speaker | None:
    """What the run's reward stage made, or the model that its configuration names, with its ensemble and aspects."""
    made, config = RunFolder(run).model("reward"), load_config(run / "config.yaml")
    path = str(made) if (made / "config.json").is_file() else config.reward.model
    return replace(_model(path, "reward.model"), config=config, run=run) if path else None


def _is_run(path: Path) -> bool:
    return (path / STATE_FILE).is_file()


def _is_scorer(files: ModelFiles) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in files.config.get("architectures") or [])


def _with_template(config: RunConfig, file: str) -> RunConfig:
    config = config.model_copy(deep=True)
    config.model.chat_template = file
    return config


def _check(speaker: Speaker) -> None:
    """Raises ConfigError where that model cannot chat, or vLLM cannot serve it here."""
    files, model = speaker.files, speaker.config.model
    if _is_scorer(files):
        raise ConfigError(f"MODEL: {speaker.path} is a reward model, which answers nothing; give it as --reward {speaker.path}")
    if files.local and (problem := pickled_weights(speaker.path)):
        raise ConfigError(f"MODEL: {problem}")
    if "auto_map" in files.config and not model.trust_remote_code:
        raise ConfigError(f"MODEL: {speaker.path} brings Python code of its own, which is not run here")
    if not files.has_chat_template and not model.chat_template:
        raise ConfigError(f"MODEL: the tokenizer of {speaker.path} has no chat template (chat_template.jinja, or chat_template "
                          "in tokenizer_config.json), so nobody can say how it is asked; give a file with one as --chat-template")
    if not machine_gpus() and files.head_size not in (None, *CPU_HEAD_SIZES):
        raise ConfigError(f"MODEL: {speaker.path} has heads of {files.head_size}, and vLLM's CPU backend has "
                          f"{', '.join(map(str, CPU_HEAD_SIZES))} only")


def _told_apart(found: Sequence[Speaker]) -> list[Speaker]:
    """Those of one name are called by their run's name too, or by their path."""
    def again(names: Sequence[str]) -> set[str]:
        return {name for name, count in Counter(names).items() if count > 1}

    twice = again([one.name for one in found])
    longer = [f"{one.run.name} {one.name}" if one.run and one.name in twice else one.name for one in found]
    twice = again(longer)
    return [replace(one, name=one.path if name in twice else name) for one, name in zip(found, longer, strict=True)]
