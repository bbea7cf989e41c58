"""The shape of a model: what its config.json says of its tensors, without its weights.

A model on disk has its own config.json. For a hub name a run's `model.shapes` names one that ships with the project
(`shapes/NAME/config.json`, plain transformers files), so that a login node without network can plan for it.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from scale_rlhf.config.model_files import HubUnreachable, config_file
from scale_rlhf.config.places import is_local
from scale_rlhf.config.schema import RunConfig, ScratchSection
from scale_rlhf.errors import ConfigError

SHIPPED = Path(__file__).parent / "shapes"
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


class UnknownShape(Exception):
    """Nothing can be planned for this model; the text says why."""


@dataclass(frozen=True)
class Shape:
    """A decoder in the manner of Llama: sizes, and which of its matrices have biases."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    query_bias: bool = False  # of queries, keys and values
    output_bias: bool = False  # of the attention's output
    feed_forward_bias: bool = False
    head_norms: bool = False  # Qwen3: each head's queries and keys have a norm

    @property
    def queries(self) -> int:
        """Width of all attention heads together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all key (or value) heads together."""
        return self.key_value_heads * self.head_size


def shape_of(config: RunConfig, path: str | None, key: str) -> Shape:
    """Shape of the model at `path` (folder or hub name; None: model.scratch). key: of the configuration, for messages.

    Its own config.json where that is on disk, else what model.shapes names, else the hub's. Raises UnknownShape where there
    is none or the arithmetic does not know the architecture, ConfigError where model.shapes names what is not there.
    """
    if path is None:
        return _scratch(config.model.scratch)
    if not is_local(path) and path in config.model.shapes:
        named = config.model.shapes[path]
        return from_config(shipped(named), named)
    try:
        return from_config(config_file(path, key), path)
    except HubUnreachable:
        raise UnknownShape(f"the shape of {path} is not known here: name one as model.shapes={{{path}: "
                           f"{'|'.join(names())}}}, or give a folder with its config.json") from None


def names() -> list[str]:
    """Shapes that ship with the project."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").is_file())


def shipped(name: str) -> dict:
    """config.json of a shape: one that ships with the project, or that of a folder. Raises ConfigError."""
    folder = SHIPPED / name if name in names() else Path(name).expanduser()
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        found = "no such shape" if isinstance(error, FileNotFoundError) else f"what cannot be read: {error}"
        raise ConfigError(f"model.shapes: expected one of {', '.join(names())}, or a folder with a config.json; "
                          f"found {name[:200]}: {found}{hint}") from None


def from_config(config: dict, name: str) -> Shape:
    """The shape in the contents of a config.json. Raises UnknownShape for an architecture that the arithmetic does not know."""
    text = config.get("text_config") or config
    family = text.get("model_type")
    if family not in ("llama", "mistral", "qwen2", "qwen3"):
        raise UnknownShape(f"{name} is of type {family}, and the arithmetic knows llama, mistral, qwen2 and qwen3")
    missing = [key for key in _SIZES if type(text.get(key)) is not int or text[key] < 1]
    if missing:
        raise UnknownShape(f"the config.json of {name} has no {', '.join(missing)}")
    hidden, layers, heads, intermediate, vocabulary = (text[key] for key in _SIZES)
    bias = bool(text.get("attention_bias"))
    return Shape(
        name, hidden, layers, heads, text.get("num_key_value_heads") or heads, text.get("head_dim") or hidden // heads,
        intermediate, vocabulary, tied=bool(text.get("tie_word_embeddings")),
        query_bias=family == "qwen2" or bias and family != "mistral", output_bias=bias and family in ("llama", "qwen3"),
        feed_forward_bias=family == "llama" and bool(text.get("mlp_bias")), head_norms=family == "qwen3",
    )


def _scratch(scratch: ScratchSection) -> Shape:
    return Shape("model.scratch", scratch.hidden_size, scratch.layers, scratch.heads, scratch.key_value_heads, scratch.head_dim,
                 scratch.intermediate_size, scratch.vocabulary, tied=scratch.tied_embeddings, head_norms=True)
