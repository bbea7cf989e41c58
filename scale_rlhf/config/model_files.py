"""What a model's own files say about it, read without transformers: a login node has no torch.

A local folder is read as it is. Of a hub model the few small files are taken from the cache, or fetched within seconds;
where the hub cannot be reached, that is said, and nothing is concluded.
"""

import difflib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from scale_rlhf.config.places import is_local
from scale_rlhf.errors import ConfigError

HUB_SECONDS = 5.0  # for one small file
LARGEST_FILE = 50_000_000  # bytes that are read of one
_SIZES = ("head_dim", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads",
          "num_hidden_layers", "max_position_embeddings")
_GPT2_NAMES = {"n_embd": "hidden_size", "n_inner": "intermediate_size", "n_head": "num_attention_heads",
               "n_layer": "num_hidden_layers", "n_positions": "max_position_embeddings"}
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NO_WEIGHTS = ("training_args.bin",)
_NAMES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class HubUnreachable(Exception):
    """The hub did not answer, and the cache does not have the file."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model that checks look at; a file that is absent is None."""

    path: str
    config: dict
    tokenizer_config: dict | None = None
    special_tokens: dict | None = None
    template_file: str | None = None
    local: bool = True
    text_config: dict = field(default_factory=dict)  # config, or its text part where the model has several; `common_names`

    @property
    def head_size(self) -> int | None:
        """Size of an attention head."""
        if size := self.text_config.get("head_dim"):
            return size
        width, heads = self.text_config.get("hidden_size"), self.heads
        return width // heads if width and heads else None

    @property
    def heads(self) -> int | None:
        """Attention heads."""
        return self.text_config.get("num_attention_heads")

    @property
    def key_value_heads(self) -> int | None:
        return self.text_config.get("num_key_value_heads") or self.heads

    @property
    def layers(self) -> int | None:
        """Transformer blocks."""
        return self.text_config.get("num_hidden_layers")

    @property
    def context(self) -> int | None:
        """Longest sequence."""
        return self.text_config.get("max_position_embeddings")

    @property
    def causal(self) -> bool:
        """Whether it can generate text token by token, from its architectures; where they are not told, it is taken to."""
        names = self.config.get("architectures") or []
        told = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return not told or any(name.endswith(_GENERATES) for name in told)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.template_file or (self.tokenizer_config or {}).get("chat_template"))

    @property
    def end_token(self) -> str | None:
        """The end token's text."""
        token = (self.tokenizer_config or {}).get("eos_token") or (self.special_tokens or {}).get("eos_token")
        text = token.get("content") if isinstance(token, dict) else token
        return text if isinstance(text, str) else None

    def vocabulary(self) -> dict[str, int] | None:
        """Token to number, from a local tokenizer.json of a kind that lists it; None otherwise."""
        file = Path(self.path) / "tokenizer.json"
        if not self.local or not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            words = content["model"]["vocab"]
            pairs = words.items() if isinstance(words, dict) else ((entry[0], number) for number, entry in enumerate(words))
            return {**dict(pairs), **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
        except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
            return None


def model_files(path: str, key: str) -> ModelFiles:
    """Files of the model at `path`; ConfigError names `key` where it cannot be, HubUnreachable where nobody can tell."""
    read = _reader(path, key)
    config, tokenizer, special, template = (read(name) for name in _NAMES)
    config = _config(config, path, key)
    settings = _json(tokenizer, f"{key}: {path}/tokenizer_config.json")
    tokens = _json(special, f"{key}: {path}/special_tokens_map.json")
    return ModelFiles(path, config, settings, tokens, template, is_local(path), text_config=common_names(config))


def common_names(config: dict) -> dict:
    """The text part of a config.json, its sizes called what most families call them (GPT-2 has names of its own)."""
    text = config.get("text_config") or config
    known = {name: text[theirs] for theirs, name in _GPT2_NAMES.items() if text.get(theirs) is not None}
    if width := text.get("n_embd"):
        known.setdefault("intermediate_size", 4 * width)
    return known | text


def config_file(path: str, key: str) -> dict:
    """config.json of the model at `path`, found and checked as by `model_files`."""
    return _config(_reader(path, key)("config.json"), path, key)


def _reader(path: str, key: str) -> Callable[[str], str | None]:
    return _local_file(path, key) if is_local(path) else lambda name: _hub_file(path, name, key)


def _config(text: str | None, path: str, key: str) -> dict:
    if text is None:
        raise ConfigError(f"{key}: {path} has no config.json; expected a Hugging Face model folder or a hub name")
    config = _json(text, f"{key}: {path}/config.json")
    _check_sizes(config.get("text_config") or config, f"{key}: {path}/config.json")
    return config


def _check_sizes(config: object, where: str) -> None:
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: text_config: expected a section, found {type(config).__name__}")
    for name in (*_SIZES, *_GPT2_NAMES):
        value = config.get(name)
        if value is not None and (type(value) is not int or not 0 < value < 2**31):
            found = f"{type(value).__name__} {repr(value)[:60]}"
            raise ConfigError(f"{where}: {name}: expected a whole number above 0, found {found}")


def pickled_weights(path: str) -> str | None:
    """What is wrong where a local folder's weights cannot be read without running code; None where nothing is.

    A pickle (pytorch_model.bin and its like) can run anything when it is read, so none is, not even from a folder of ours.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    pickles = sorted(file.name for ending in _PICKLES for file in folder.glob(f"*{ending}") if file.name not in _NO_WEIGHTS)
    if not pickles:
        return None
    return (f"{path} has its weights in a pickle ({pickles[0]}), which can run any code when it is read; expected *.safetensors. "
            "Take the author's safetensors, or convert it yourself where you trust it (model.save_pretrained writes safetensors)")


def _local_file(path: str, key: str):
    try:
        folder = Path(path).expanduser()
        names = [] if folder.is_dir() else [p.name for p in folder.parent.glob("*/")]
    except (OSError, RuntimeError) as error:  # a name too long, ~ of a user that is not there
        raise ConfigError(f"{key}: model folder {path[:200]} cannot be looked for: {error}") from None
    if not folder.is_dir():
        near = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {folder.parent / near[0]}?" if near else ""
        raise ConfigError(f"{key}: model folder {path} does not exist (looked in {folder.parent.absolute()}){hint}")

    def read(name: str) -> str | None:
        file = folder / name
        try:
            return file.read_text(encoding="utf-8") if file.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{key}: {file} cannot be read: {error}") from None

    return read


def _json(text: str | None, where: str) -> dict | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _hub_file(model: str, name: str, key: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    if isinstance(cached, str):
        return Path(cached).read_text(encoding="utf-8")
    if not hub_reachable():
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return None  # the model is cached, and has no such file
        raise HubUnreachable(model)
    return _fetched(model, name, key)


def _fetched(model: str, name: str, key: str) -> str | None:
    headers = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("HF_TOKEN")) else {}
    request = urllib.request.Request(f"{endpoint()}/{model}/resolve/main/{name}", headers=headers)
    try:
        with _opener().open(request, timeout=HUB_SECONDS) as answer:
            return answer.read(LARGEST_FILE).decode()
    except urllib.error.HTTPError as error:
        if name != "config.json" and error.code == 404:
            return None
        if error.code in (401, 403, 404):
            found = f"answer {error.code}"
            raise ConfigError(f"{key}: the hub has no model {model}, or it needs a token of yours (HF_TOKEN): {found}") from None
        raise HubUnreachable(model) from None
    except (OSError, ValueError):
        raise HubUnreachable(model) from None


class _OwnHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and leaves the token behind where one leads to another host: urllib alone would take it along."""

    def redirect_request(self, request, file, code, message, headers, address):
        followed = super().redirect_request(request, file, code, message, headers, address)
        if followed and (followed.type, followed.host) != (request.type, request.host):
            followed.remove_header("Authorization")
        return followed


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_OwnHost)


def endpoint() -> str:
    """Address of the hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@cache
def hub_reachable() -> bool:
    """Whether the hub answers at all within seconds; its own client would try for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint(), method="HEAD"), timeout=HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
