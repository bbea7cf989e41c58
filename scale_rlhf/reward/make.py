"""The one place that chooses the kind of reward."""

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.orchestration.health import Budget
from scale_rlhf.reward.interface import RewardFleet


def make_reward(
    config: RunConfig, *, model: str | None, policy: str, budget: Budget | None = None, namespace: str | None = None,
) -> RewardFleet:
    """The reward that `config.reward` names. Starts nothing.

    model: what the reward stage made, for when reward has neither model nor function nor url. policy: folder or hub
    name of the model whose tokens the samples are made of. namespace: in which Ray finds its processes by their names.
    Raises ConfigError.
    """
    section = config.reward
    named = [key for key in ("model", "function", "url") if getattr(section, key)]
    if len(named) > 1:
        raise ConfigError(f"reward: expected one of model, function and url, found {' and '.join(named)}; set the others to null")
    if section.function or section.url:
        return _outside(config, policy, budget, namespace)
    model = section.model or model
    if model is None:
        raise ConfigError("reward: expected model, function or url, or a reward stage before, found none of them; set one")
    from scale_rlhf.reward.learned import LearnedReward

    return LearnedReward(config, model, policy, budget, namespace)


def processes(config: RunConfig) -> tuple[int, int]:
    """(replicas, processes of each) that a reward starts, for placement. A service has none here."""
    section = config.reward
    if section.url:
        return 0, 0
    return section.replicas, 1 if section.function else section.workers


def _outside(config: RunConfig, policy: str, budget: Budget | None, namespace: str | None) -> RewardFleet:
    from scale_rlhf.reward.text import Reader, read_tokenizer

    section = config.reward
    reader = Reader(read_tokenizer(policy, trust_remote_code=config.model.trust_remote_code))
    if section.function:
        from scale_rlhf.reward.function import FunctionReward

        return FunctionReward(config, section.function, reader, budget, namespace)
    from scale_rlhf.reward.service import ServiceReward

    return ServiceReward(config, section.url, reader)
