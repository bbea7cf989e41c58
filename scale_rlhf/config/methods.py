"""The methods that `ppo.advantages` and `ppo.loss` choose from. A new one is a file in algorithms/ and a line here
(docs/extending.md): the configuration, its checks and the training find everything else by it. Imports no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Advantages:
    """estimator: module:name in scale_rlhf.algorithms, called as estimator(outcome, **keys); None: GAE, with the value model.

    keys: of `ppo.`, that this method reads. compares: the responses to one prompt with each other, so that one alone says
    nothing. greedy: it needs the reward of a greedy response to each prompt. whitens: `ppo.whiten_advantages` is read.
    """

    estimator: str | None
    keys: tuple[str, ...] = ()
    compares: bool = False
    greedy: bool = False
    whitens: bool = False

    @property
    def critic(self) -> bool:
        """Whether there is a value model at all."""
        return self.estimator is None


@dataclass(frozen=True)
class PolicyLoss:
    """function: module:name in scale_rlhf.algorithms, of the signature of `losses.ppo_policy_loss`. clipped: the tokens whose
    ratio it cut, for the metric, of the signature of `losses.ppo_clipped`. keys: of `ppo.`, that the function takes by name.

    A loss is proportional to the size of the advantage: weights of tokens are multiplied into it.
    """

    function: str
    clipped: str
    keys: tuple[str, ...] = ("clip_low", "clip_high")


ADVANTAGES: dict[str, Advantages] = {
    "gae": Advantages(None, ("gamma", "lam", "value_clip", "value_pretraining"), whitens=True),
    "group_relative": Advantages("estimators:grpo", ("scale_by_std",), compares=True),
    "leave_one_out": Advantages("estimators:rloo", compares=True),
    "reinforce_plus_plus": Advantages("estimators:reinforce", ("gamma",), whitens=True),
    "reinforce_plus_plus_baseline": Advantages("estimators:reinforce_with_baseline", compares=True, whitens=True),
    "remax": Advantages("estimators:remax", greedy=True),
}

LOSSES: dict[str, PolicyLoss] = {
    "ppo": PolicyLoss("losses:ppo_policy_loss", "losses:ppo_clipped", ("clip_low", "clip_high", "dual_clip")),
    "gspo": PolicyLoss("gspo:gspo_policy_loss", "gspo:gspo_clipped"),
    "cispo": PolicyLoss("cispo:cispo_policy_loss", "cispo:cispo_clipped"),
}


def readers(key: str) -> tuple[str, list[str]]:
    """(`advantages` or `loss`, the methods of it that read ppo.`key`); ("", []) for a key that every method reads."""
    for chooser, methods in (("advantages", ADVANTAGES), ("loss", LOSSES)):
        if names := [name for name, method in methods.items() if key in method.keys]:
            return chooser, names
    return "", []
