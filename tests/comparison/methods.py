"""The methods that are compared, each as what it adds to the command line, for one budget of samples."""

from collections.abc import Callable
from dataclasses import dataclass

PAIR = 2  # responses that DPO reads of each prompt
DPO_BATCH = 32  # pairs
_TUNED = "workers=2 zero_stage=0 warmup_steps=10 max_tokens=96"  # as the quickstart's own supervised stages


@dataclass(frozen=True)
class Budget:
    """What each method may learn from. samples: responses of one step. group: of one prompt, where these are compared."""

    steps: int = 30
    samples: int = 128
    group: int = 8

    def __post_init__(self):
        if self.samples % self.group:
            raise ValueError(f"--samples: expected a multiple of --group ({self.group}), found {self.samples}")

    @property
    def total(self) -> int:
        """Responses in all."""
        return self.steps * self.samples


@dataclass(frozen=True)
class Method:
    """title: in the table. stage: that makes the model. keys: key.path=value, beside those that all runs have."""

    title: str
    stage: str
    keys: Callable[[Budget], list[str]]


def _rl(advantages: str, *further: str, grouped: bool = True) -> Callable[[Budget], list[str]]:
    """A method of PPO's loop: as many samples a step as any other, of fewer prompts where a prompt has a group of them."""

    def keys(budget: Budget) -> list[str]:
        group = budget.group if grouped else 1
        return [f"ppo.advantages={advantages}", f"ppo.steps={budget.steps}", f"ppo.responses_per_prompt={group}",
                f"ppo.prompts_per_step={budget.samples // group}", *further]

    return keys


def _dpo(budget: Budget) -> list[str]:
    """Half as many pairs as there are responses; settings of docs/without-a-reward-model.md."""
    steps = max(1, budget.total // (PAIR * DPO_BATCH))
    return [*(f"dpo.{key}" for key in _TUNED.split()), f"dpo.batch_size={DPO_BATCH}", f"dpo.max_steps={steps}",
            "dpo.epochs=100", "dpo.learning_rate=3e-4", "dpo.beta=0.3"]


def _best_of_n(budget: Budget) -> list[str]:
    return [*(f"best_of_n.{key}" for key in _TUNED.split()), f"best_of_n.responses_per_prompt={budget.group}",
            f"best_of_n.prompts={budget.total // budget.group}", "best_of_n.epochs=4", "best_of_n.learning_rate=1e-3"]


METHODS: dict[str, Method] = {
    "ppo": Method("PPO", "ppo", _rl("gae", grouped=False)),
    "grpo": Method("GRPO", "ppo", _rl("group_relative", "ppo.aggregation=sequence_mean")),
    "dr_grpo": Method("Dr. GRPO", "ppo", _rl("group_relative", "ppo.scale_by_std=false", "ppo.aggregation=constant")),
    "rloo": Method("RLOO", "ppo", _rl("leave_one_out")),
    "reinforce_plus_plus": Method("REINFORCE++", "ppo", _rl("reinforce_plus_plus", grouped=False)),
    "reinforce_plus_plus_baseline": Method("REINFORCE++-baseline", "ppo", _rl("reinforce_plus_plus_baseline")),
    # Its greedy responses have log-probabilities at temperature 1 alone. They are not in the budget.
    "remax": Method("ReMax", "ppo", _rl("remax", "rollout.temperature=1", grouped=False)),
    "gspo": Method("GSPO", "ppo", _rl("group_relative", "ppo.loss=gspo", "ppo.aggregation=sequence_mean",
                                      "ppo.clip_low=3e-4", "ppo.clip_high=4e-4")),
    "cispo": Method("CISPO", "ppo", _rl("group_relative", "ppo.loss=cispo")),
    "dpo": Method("DPO", "dpo", _dpo),
    "best_of_n": Method("best of n", "best_of_n", _best_of_n),
}
