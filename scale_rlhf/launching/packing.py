"""What is sent to the cluster with a run: its configuration and the folder of the user's functions. No secrets, nothing large."""

import fnmatch
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from sys import path as search_path

from scale_rlhf.config.load import dump
from scale_rlhf.config.places import is_local
from scale_rlhf.config.reward_sources import judge_functions, judge_sources, reward_functions, reward_sources
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.supervised import SUPERVISED
from scale_rlhf.errors import ConfigError
from scale_rlhf.launching.token import ray_token
from scale_rlhf.redaction import without_secrets

CONFIG_FILE = "scale-rlhf-run.yaml"
MOST_BYTES, MOST_FILES = 50_000_000, 5_000
# Folders of tools, and scale-rlhf's own: the cluster runs the one that is installed there.
FOLDERS_LEFT_OUT = (
    ".*", "__pycache__", "venv", "env", "node_modules", "site-packages", "*.egg-info", "build", "dist", "runs", "wandb",
    "mlruns", "scale_rlhf",
)
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx")
SECRETS = (
    "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_ed25519*", "id_ecdsa*", "auth_token*",
    "*credentials*", "*secret*.json", "*secret*.y*ml", "kubeconfig*",
)
FILES_LEFT_OUT = (*WEIGHTS, *SECRETS, ".*", "*.pyc", "core")  # .env, .netrc and their like begin with a dot


@dataclass(frozen=True)
class Package:
    """A folder that is ready to be sent: what is in it besides the configuration, and how large that is."""

    folder: Path
    files: list[Path]  # relative to the folder that they come from
    size: int


def code_folder(config: RunConfig) -> Path | None:
    """The folder from which functions that reward and judge are imported; None where they are installed, or not given."""
    found = {}
    for key, function in (reward_functions(config) | judge_functions(config)).items():
        module = function.partition(":")[0].split(".")[0]
        if module not in ("", "scale_rlhf") and (folder := _folder_of(module)):  # our own are there
            found[key] = folder
    if len(set(found.values())) > 1:
        places = " and ".join(f"{key} in {folder}" for key, folder in found.items())
        raise ConfigError(f"expected the run's functions in one folder, which is sent to the cluster; found {places}")
    return next(iter(found.values()), None)


def _folder_of(module: str) -> Path | None:
    spec = PathFinder.find_spec(module, [os.getcwd(), *search_path])
    places = [Path(place) for place in (spec.submodule_search_locations or [spec.origin])] if spec and spec.origin else []
    if spec and not places and spec.submodule_search_locations:  # a folder without __init__.py
        places = [Path(place) for place in spec.submodule_search_locations]
    if not places:
        return None
    folder = (places[0] if places[0].is_dir() else places[0]).parent.resolve()
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]
    return None if any(folder == one or one in folder.parents for one in installed) else folder


def pack(config: RunConfig | None, code: Path | None, into: Path) -> Package:
    """Writes the configuration and copies the files of `code` into the empty folder `into`.

    config: None where the run has one already (resume). Raises ConfigError where the configuration holds a secret, and where
    the files are too large or hold Ray's token.
    """
    files = sorted(files_of(code)) if code else []
    _check_size(code, files)
    token = (ray_token() or "").encode()
    for file in files:
        content = (code / file).read_bytes()
        if token and token in content:
            raise ConfigError(f"{code / file} holds Ray's token, and would be sent to the cluster; take the token out of it")
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        (into / file).write_bytes(content)
        shutil.copymode(code / file, into / file)
    if config is not None:
        _write_config(config, into / CONFIG_FILE)
    return Package(into, files, sum((code / file).stat().st_size for file in files) if code else 0)


def _write_config(config: RunConfig, file: Path) -> None:
    text = dump(config)
    shown = without_secrets(text)
    if shown != text:
        line = next(one for one, plain in zip(shown.splitlines(), text.splitlines(), strict=True) if one != plain)
        raise ConfigError(f"`{line.strip()}`: a password would lie on the cluster for everyone to read. Start this run on a node "
                          "of the cluster instead: scale-rlhf run CONFIG cluster.address=auto")
    file.write_text(text, encoding="utf-8")


def files_of(folder: Path) -> Iterator[Path]:
    """Files that are sent, relative to `folder`: what git would not ignore, without what is left out by name."""
    for file in _known_to_git(folder) or _all(folder):
        if any(_matches(part, FOLDERS_LEFT_OUT) for part in file.parts[:-1]) or _matches(file.name, FILES_LEFT_OUT):
            continue
        place = (folder / file).resolve()
        if place.is_file() and folder.resolve() in place.parents:  # a link that leads out of the folder is not followed
            yield file


def _known_to_git(folder: Path) -> list[Path]:
    """Files that are tracked, or neither tracked nor ignored; none outside a repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else []


def _all(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _matches(name, FOLDERS_LEFT_OUT)]
        yield from (Path(place, name).relative_to(folder) for name in files)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def _check_size(folder: Path | None, files: list[Path]) -> None:
    sizes = {file: (folder / file).stat().st_size for file in files}
    total = sum(sizes.values())
    if total <= MOST_BYTES and len(files) <= MOST_FILES:
        return
    largest = sorted(sizes, key=sizes.get, reverse=True)[:5]
    listed = "\n".join(f"  {sizes[file] / 1e6:8.1f} MB  {file}" for file in largest)
    raise ConfigError(f"{folder}: {len(files)} files of {total / 1e6:.0f} MB would be sent to the cluster with the run's "
                      f"functions; at most {MOST_FILES} files of {MOST_BYTES / 1e6:.0f} MB are. The largest:\n{listed}\n"
                      "Put the functions into a folder of their own, name what is large in .gitignore, or install them on the "
                      "cluster")


def check_paths(config: RunConfig) -> list[str]:
    """Raises ConfigError for paths of this machine; returns notes on absolute ones that are not here, and so not looked into."""
    mistakes, notes = [], []
    if not os.path.isabs(config.run.folder):
        mistakes.append(f"run.folder: {config.run.folder} is a path of this machine. The run writes on the cluster: give an "
                        "absolute path on a file system that all its nodes see, such as run.folder=/shared/runs")
    for key, path in _paths(config):
        if not is_local(path) and key != "model.chat_template":
            continue  # a hub name
        if not os.path.isabs(path):
            mistakes.append(f"{key}: {path} is a path of this machine. The run reads it on the cluster: put it on a file system "
                            "that all its nodes see, and give the absolute path")
        elif not os.path.exists(path):
            notes.append(f"{key}: {path} is not on this machine; the run looks for it on the cluster before it starts anything")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return notes


def _paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    given = {"model.path": config.model.path, "model.chat_template": config.model.chat_template}
    roles = (*SUPERVISED.values(), "policy", "value", "reference")
    given |= {f"{role}.model": getattr(config, role).model for role in roles}
    for key, source in (reward_sources(config) | judge_sources(config)).items():
        given |= {f"{key}.model": source.model} | {f"{key}.ensemble.{place}": path for place, path in enumerate(source.ensemble)}
    sources = ("base_text", "instructions", "preferences", "prompts", "evaluation")
    given |= {f"data.{name}": source.path for name in sources if (source := getattr(config.data, name))}
    given |= {f"data.mixture.{place}": source.path for place, source in enumerate(config.data.mixture)}
    given |= {f"evaluation.prompt_sets.{name}": source.path for name, source in config.evaluation.prompt_sets.items()}
    given |= {f"evaluation.models.{name}": path for name, path in config.evaluation.models.items()}
    yield from ((key, path) for key, path in given.items() if path)
