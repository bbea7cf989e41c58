"""docs/configuration.md, made from the schema, so that it says what the code takes: python -m scale_rlhf.config.page > FILE."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scale_rlhf.config.load import section_type
from scale_rlhf.config.schema import DataSource, RunConfig

_HEAD = """# Configuration

A run is one YAML file. Any key can be overridden on the command line, values being YAML:

    scale-rlhf run configs/quickstart.yaml ppo.steps=50 policy.learning_rate=3e-6 data.prompts=my_prompts.jsonl

`scale-rlhf config FILE [key.path=value …]` validates a run and prints it with every default, and starts nothing; it needs no GPU
and no torch. What it cannot check where it runs, such as a hub model without network, it lists.

A source of data (`data.*`) is a path or hub name, or a section as in [source](#source).

Made from `scale_rlhf/config/schema.py`, `supervised.py` and `roles.py`.
"""
_BOUNDS = {
    annotated_types.Gt: ("gt", "> "), annotated_types.Ge: ("ge", "≥ "),
    annotated_types.Lt: ("lt", "< "), annotated_types.Le: ("le", "≤ "),
}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "value"}


def page() -> str:
    """The page, Markdown: a table for each section with each key's type, bounds, default and meaning."""
    parts = [_HEAD]
    for name, field in RunConfig.model_fields.items():
        section = section_type(field.annotation)
        parts += _section(name, section)
    parts += _section("source", DataSource)
    return "\n".join(parts)


def _section(path: str, section: type[BaseModel]) -> list[str]:
    about = "" if section.__doc__ is None or section.__doc__ == BaseModel.__doc__ else " ".join(section.__doc__.split())
    lines = [f"## {path}" if "." not in path else f"### {path}", ""]
    lines += [about, ""] if about else []
    lines += ["| key | takes | default | |", "| --- | --- | --- | --- |"]
    inner = []
    for name, field in section.model_fields.items():
        below = section_type(field.annotation)
        if below and below.__name__ != "DataSource":
            inner.append((f"{path}.{name}", below))
        takes, meaning = _type(field.annotation) + _bounds(field.metadata), field.description or _see(path, name, below)
        lines.append(f"| `{name}` | {takes} | {_default(field)} | {_escaped(meaning)} |")
    lines.append("")
    for name, below in inner:
        lines += _section(name, below)
    return lines


def _see(path: str, name: str, below: type[BaseModel] | None) -> str:
    return f"See {path}.{name} below." if below else ""


def _bounds(rules: Iterable[object]) -> str:
    """" (≥ 0, < 1)", or nothing."""
    pairs = [(rule, *bound) for rule in rules for kind, bound in _BOUNDS.items() if isinstance(rule, kind)]
    found = [f"{mark}{getattr(rule, name):g}" for rule, name, mark in pairs]
    return f" ({', '.join(found)})" if found else ""


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for extra in arguments[1:] for rule in (extra if isinstance(extra, (list, tuple)) else [extra])]
        return _type(arguments[0]) + _bounds(rules)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join("null" if argument is NoneType else _type(argument) for argument in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} numbers"
    if origin is dict:
        return f"{_type(arguments[1])} by name"
    below = section_type(annotation)
    if below:
        return "source" if below.__name__ == "DataSource" else "section"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    value = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix('...' + chr(10)).strip()}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
