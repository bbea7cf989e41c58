"""Models on disk and in memory: Hugging Face folders in, Hugging Face folders out."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from scale_rlhf.config.model_files import pickled_weights
from scale_rlhf.config.places import is_local
from scale_rlhf.disk import writing
from scale_rlhf.errors import ConfigError
from scale_rlhf.models.forward import ScalarHead, ScoreHeads

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_causal(path: str, *, dtype: str = "float32", attention: str = "sdpa", trust_remote_code: bool = False) -> nn.Module:
    """A causal language model from a folder or a hub name, dropout off. dtype: "float32" or "bfloat16".

    Raises ConfigError where there is no model, or none of that kind.
    """
    from transformers import AutoModelForCausalLM

    config = model_config(path, trust_remote_code)
    return _from_pretrained(AutoModelForCausalLM, path, config, dtype, attention, trust_remote_code)


def load_scalar(
    path: str, *, dtype: str = "float32", attention: str = "sdpa", trust_remote_code: bool = False, seed: int = 0,
) -> ScalarHead:
    """A model with one number a token: a reward or value model, dropout off.

    A sequence-classification folder is taken as it is. On a causal language model a new head is put: no bias,
    weights from N(0, 1/(d + 1)), d the hidden size, drawn from `seed` (Stiennon et al. 2020). Raises ConfigError
    where there is no model, an encoder, or a classifier with more than one label.
    """
    config = model_config(path, trust_remote_code)
    classifies = is_classifier(config)
    if classifies and config.num_labels != 1:
        raise ConfigError(f"{path}: expected a model with one score (num_labels 1), found {config.num_labels} labels; "
                          "name a reward model, or a causal language model to put a new head on")
    config.num_labels = 1
    model = _decoder(_classifier(path, config, dtype, attention, trust_remote_code), path)
    if not classifies:
        _new_head(model.score, seed)
    return ScalarHead(model)


def load_aspects(
    path: str, aspects: Sequence[str], *, dtype: str = "float32", attention: str = "sdpa", trust_remote_code: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A sequence-classification model with one label for each of `aspects`, named in its id2label; the rest as `load_scalar`.

    Raises ConfigError also where a classifier has other labels.
    """
    config = model_config(path, trust_remote_code)
    classifies, named = is_classifier(config), dict(enumerate(aspects))
    if classifies and config.id2label != named:
        raise ConfigError(f"{path}: expected a model with the labels {', '.join(aspects)} (reward_model.aspects), found "
                          f"{', '.join(config.id2label.values())}; name such a model, or a causal language model")
    config.id2label, config.label2id = named, {name: place for place, name in named.items()}
    config.problem_type = "regression"  # scores: a pipeline must make no probabilities of them
    model = _decoder(_classifier(path, config, dtype, attention, trust_remote_code), path)
    if not classifies:
        _new_head(model.score, seed)
    return model


def load_scores(path: str, *, dtype: str = "float32", attention: str = "sdpa", trust_remote_code: bool = False) -> ScoreHeads:
    """A sequence-classification model as it is, with as many scores as it has labels. Raises ConfigError where there is none."""
    return ScoreHeads(_classifier(path, model_config(path, trust_remote_code), dtype, attention, trust_remote_code))


def is_classifier(config) -> bool:
    """Whether a transformers configuration is that of a sequence-classification model."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


@contextmanager
def sharded(deepspeed_config: dict) -> Iterator[None]:
    """Models loaded inside are split over the ranks as they are read, if that configuration is ZeRO stage 3.

    torch.distributed must be up, and all ranks must load the same model. Otherwise does nothing.
    """
    if deepspeed_config.get("zero_optimization", {}).get("stage") != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    keeper = HfDeepSpeedConfig(deepspeed_config)  # transformers holds a weak reference: it must live while loading
    try:
        yield
    finally:
        del keeper
        unset_hf_deepspeed_config()


def saved_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What belongs on disk beside the parameters."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return ((name, tensor) for name, tensor in model.state_dict().items() if name not in parameters)


def save_whole(model: nn.Module, folder: str | Path, tokenizer, *, state: dict | None = None,
               beside: Callable[[Path], None] = lambda folder: None) -> None:
    """`save`, but the folder stands whole in its place or not at all. beside: writes what else belongs into it.

    Raises DiskError where it cannot be written.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)
            save(model, partial, state=state)
            tokenizer.save_pretrained(partial)
            beside(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save(
    model: nn.Module, folder: str | Path, *, tokenizer_from: str | None = None, state: dict | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write a Hugging Face folder: safetensors, configuration and, from another folder or the hub, the tokenizer.

    model: a transformers model, or heads around one. state: gathered weights by Hugging Face name, for a sharded
    model; None: the model's own. Tied duplicates are left out, as transformers does.
    """
    model = model.classifier if isinstance(model, ScoreHeads) else model
    model.save_pretrained(folder, **({} if state is None else {"state_dict": state}))
    if tokenizer_from is not None:
        tokenizer_of(tokenizer_from, trust_remote_code).save_pretrained(folder)


def tokenizer_of(path: str, trust_remote_code: bool = False):
    """The tokenizer of a folder or hub name, as it is."""
    from transformers import AutoTokenizer

    with offline_if_local(path):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


@contextmanager
def offline_if_local(path: str) -> Iterator[None]:
    """Inside, a local folder is read without asking the hub about it."""
    import huggingface_hub.constants as hub

    if not os.path.isdir(path):
        yield
        return
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def check_folder(path: str) -> None:
    """Raises ConfigError where a path that is no hub name is no model folder, or is one no more."""
    if is_local(path) and not os.path.isfile(os.path.join(path, "config.json")):
        raise ConfigError(f"{path}: expected a model folder with a config.json, found none; "
                          "give a Hugging Face model folder or a hub name")


def model_config(path: str, trust_remote_code: bool = False):
    """The transformers configuration of a folder or hub name, dropout off. Raises ConfigError where there is none."""
    from transformers import AutoConfig

    check_folder(path)
    with offline_if_local(path):
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: no model could be read there: {error}") from error
    for name, value in config.to_dict().items():
        if name.endswith(("dropout", "_pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _classifier(path: str, config, dtype: str, attention: str, trust_remote_code: bool) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    return _from_pretrained(AutoModelForSequenceClassification, path, config, dtype, attention, trust_remote_code)


def _decoder(model: nn.Module, path: str) -> nn.Module:
    """The classifier itself. Raises ConfigError for an encoder, which sees both ways and has no number a token."""
    if not hasattr(model, "score"):
        raise ConfigError(f"{path}: expected a decoder, which a number can be read from at any token; found an encoder "
                          f"({type(model).__name__}). An encoder can score as reward.model; to start a value model or the reward "
                          "stage, name a decoder (value.initial=policy takes the policy)")
    return model


def _from_pretrained(kind, path: str, config, dtype: str, attention: str, trust_remote_code: bool) -> nn.Module:
    from safetensors import SafetensorError

    if problem := pickled_weights(path):
        raise ConfigError(problem)
    options = {"dtype": TORCH_DTYPES[dtype], "attn_implementation": attention, "trust_remote_code": trust_remote_code,
               "use_safetensors": True}
    with offline_if_local(path), _without_progress_bars():
        try:
            model = kind.from_pretrained(path, config=config, **options)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"{path}: the model could not be loaded as {kind.__name__}: {error}") from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def _new_head(head: nn.Linear, seed: int) -> None:
    """Under ZeRO 3 each rank holds a part: draw the whole on rank 0, which DeepSpeed then hands out."""
    with _whole(head.weight), torch.no_grad():
        if head.weight.numel():
            generator = torch.Generator().manual_seed(seed)
            fresh = torch.randn(head.weight.shape, generator=generator) / (head.in_features + 1) ** 0.5
            head.weight.copy_(fresh)


def _whole(parameter: nn.Parameter):
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
