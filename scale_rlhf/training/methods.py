"""From the names in the configuration to the functions of algorithms/, with the keys that each takes."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch

from scale_rlhf.algorithms.estimators import Outcome
from scale_rlhf.config.methods import ADVANTAGES, LOSSES
from scale_rlhf.config.schema import PPOSection


def function(path: str) -> Callable:
    """What module:name of scale_rlhf.algorithms names."""
    module, name = path.split(":")
    return getattr(import_module(f"scale_rlhf.algorithms.{module}"), name)


def estimator(ppo: PPOSection) -> Callable[[Outcome], torch.Tensor]:
    """The advantages that `ppo.advantages` names, of a method without a critic: outcome -> [batch, tokens]."""
    method = ADVANTAGES[ppo.advantages]
    return partial(function(method.estimator), **{key: getattr(ppo, key) for key in method.keys})


def policy_loss(ppo: PPOSection) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """(the loss that `ppo.loss` names, the tokens that it clipped): of (logprobs, old_logprobs, advantages, mask)."""
    method = LOSSES[ppo.loss]
    options = {key: getattr(ppo, key) for key in method.keys}
    clips = {"clip_low": ppo.clip_low, "clip_high": ppo.clip_high}
    return partial(function(method.function), **options), partial(function(method.clipped), **clips)
