"""From a YAML file and key.path=value overrides to a RunConfig; whatever is wrong is said at once, with its line.

Imports no torch: a login node can validate a run.
"""

import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.yaml_text import MalformedYaml, parse
from scale_rlhf.errors import ConfigError

KeyPath = tuple[str, ...]
LONGEST_QUOTE = 200  # characters of an override or a key that a message shows


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that a YAML file describes, with overrides such as "ppo.steps=10" (values are YAML) laid over it.

    Raises ConfigError with one message for all that is wrong: FILE:LINE or the override, the key's path, what was
    expected, what was found, and the nearest valid name of an unknown key.
    """
    values, origins = _read(Path(path))
    for override in overrides:
        _apply(override, values, origins)
    return validated(values, origins, str(path))


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML; load_config reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=1000)


def validated(values: dict, origins: dict[KeyPath, str], name: str) -> RunConfig:
    """RunConfig of nested `values`; ConfigError lists every mistake at the place that `origins` has for its key."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as failure:
        lines = [_message(error, origins, name) for error in failure.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    odd = _odd_numbers(config.model_dump())
    if lines := [f"{_origin(keys, origins, name)}: {'.'.join(keys)}: {problem}" for keys, problem in odd]:
        raise ConfigError("\n".join(lines))
    return config


def _odd_numbers(value: object, at: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Numbers that a bound such as `> 0` lets through and nothing can work with: infinities, NaN, integers of over 64 bits."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _odd_numbers(inner, (*at, name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _odd_numbers(inner, at)
    elif isinstance(value, float) and not math.isfinite(value):
        yield at, f"expected a finite number; found {value}"
    elif isinstance(value, int) and abs(value) >= 2**63:
        yield at, f"expected a number of less than 64 bits; found one of {value.bit_length()}"


def _origin(keys: KeyPath, origins: dict[KeyPath, str], name: str) -> str:
    known = max((k for k in origins if keys[: len(k)] == k), key=len, default=None)
    return origins[known] if known else name


def _read(path: Path) -> tuple[dict, dict[KeyPath, str]]:
    """Values of a YAML file and, for each key path, FILE:LINE."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file{_near_file(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that no file can have
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    try:
        node, values = parse(text)
    except MalformedYaml as error:
        raise ConfigError(f"{path}{f':{error.line}' if error.line else ''}: malformed YAML: {error.problem}") from None
    origins: dict[KeyPath, str] = {}
    if node is not None:
        if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
            raise ConfigError(f"{path}:1: expected sections (`run:`, `ppo:`, …), found {type(values).__name__}")
        _note_lines(node, (), path, origins)
    return values or {}, origins


def _note_lines(node: yaml.Node, at: KeyPath, path: Path, origins: dict[KeyPath, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in seen:
            raise ConfigError(f"{path}:{line}: {'.'.join((*at, name))}: the key is there twice (first at {origins[(*at, name)]})")
        seen.add(name)
        origins[(*at, name)] = f"{path}:{line}"
        _note_lines(value, (*at, name), path, origins)


def _apply(override: str, values: dict, origins: dict[KeyPath, str]) -> None:
    key, equals, text = override.partition("=")
    where = f"override {override[:LONGEST_QUOTE]}"
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{where}: expected key.path=value, such as ppo.steps=10")
    try:
        value = parse(text)[1]
    except MalformedYaml as error:
        raise ConfigError(f"{where}: the value is malformed YAML: {error.problem}") from None
    section = values
    for place, name in enumerate(keys[:-1], 1):
        inner = section.get(name)
        if isinstance(inner, str) and (keys[0] == "data" or keys[:2] == ("evaluation", "prompt_sets")):
            inner = {"path": inner}  # data.prompts: FILE, then data.prompts.limit=10
        if not isinstance(inner, dict):
            inner = {}
            origins[keys[:place]] = where
        section[name] = inner
        section = inner
    section[keys[-1]] = value
    for known in [k for k in origins if k[: len(keys)] == keys]:
        del origins[known]
    origins[keys] = where


def _message(error: dict, origins: dict[KeyPath, str], name: str) -> str:
    keys = tuple(str(part) for part in error["loc"])
    where = _origin(keys, origins, name)
    path = ".".join(keys)[:LONGEST_QUOTE]
    if error["type"] == "extra_forbidden":
        return f"{where}: {path}: unknown key{_suggestion(keys)}"
    if error["type"] == "missing":
        return f"{where}: {path}: the key is missing, and has no default"
    return f"{where}: {path}: {_expected(error)}; found {_shown(error['input'])}{_near_choice(error)}"


def _expected(error: dict) -> str:
    if error["type"] == "model_type":
        return "expected a section with keys of its own ({} for its defaults)"
    if error["type"] == "bool_parsing":
        return "expected true or false"
    return error["msg"].replace("Input should be", "expected").replace("String should", "expected text that should")


def _near_choice(error: dict) -> str:
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    choices = [part.strip("' ") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
    near = difflib.get_close_matches(error["input"], choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _suggestion(keys: KeyPath) -> str:
    """The nearest key of the same section, else the same name in other sections, else what the section has."""
    names = list(_section(keys[:-1]).model_fields)
    near = difflib.get_close_matches(keys[-1], names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{'.'.join((*keys[:-1], near[0]))}`?"
    elsewhere = [path for path in key_paths() if path[-1] == keys[-1]]
    if elsewhere:
        return f"; did you mean {' or '.join('`' + '.'.join(path) + '`' for path in elsewhere[:3])}?"
    near = difflib.get_close_matches(keys[-1], {path[-1] for path in key_paths()}, n=1, cutoff=0.8)
    also = [".".join(path) for path in key_paths() if near and path[-1] == near[0]]
    return f"; did you mean `{also[0]}`?" if also else f"; expected one of {', '.join(names)}"


def key_paths(section: type[BaseModel] = RunConfig, prefix: KeyPath = ()) -> list[KeyPath]:
    """Path of every key that a configuration may have, in the schema's order, sections before what is in them."""
    paths = []
    for name, field in section.model_fields.items():
        paths.append((*prefix, name))
        inner = section_type(field.annotation)
        if inner:
            paths += key_paths(inner, (*prefix, name))
    return paths


def section_type(annotation: object) -> type[BaseModel] | None:
    """The section class in a field's annotation (Section, Section | None, Annotated[…]), or None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return next((found for part in get_args(annotation) if (found := section_type(part))), None)
    return None


def _section(keys: KeyPath) -> type[BaseModel]:
    section: type[BaseModel] = RunConfig
    named: type[BaseModel] | None = None  # what is in a section whose keys are names of the user's choice
    for name in keys:
        if named:
            section, named = named, None
        elif name in section.model_fields:
            annotation = section.model_fields[name].annotation
            named = section_type(get_args(annotation)[1]) if get_origin(annotation) is dict else None
            section = section_type(annotation) or section
    return section


def _shown(value: object) -> str:
    names = {str: "the text", bool: "the truth value", int: "the number", float: "the number", dict: "a section", list: "a list"}
    if value is None:
        return "null"
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
    except (yaml.YAMLError, ValueError, RecursionError):  # an integer of over 4,300 digits has no text
        text = "that cannot be shown"
    return f"{names.get(type(value), type(value).__name__)} {text[:80]}"


def _near_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder.absolute()})"
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1, cutoff=0.5)
    yamls = sorted(p.name for p in folder.glob("*.yaml"))
    return f"; did you mean {folder / near[0]}?" if near else f"; {folder.absolute()} has {', '.join(yamls) or 'no YAML files'}"
