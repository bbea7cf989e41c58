"""The one place that chooses the kind of reward."""

from scale_rlhf.cluster.placement import Placement
from scale_rlhf.config.reward_sources import processes, reward_sources
from scale_rlhf.config.schema import RunConfig, ScoreSource
from scale_rlhf.errors import ConfigError
from scale_rlhf.orchestration.health import Budget
from scale_rlhf.reward.interface import RewardFleet


def make_reward(
    config: RunConfig, *, model: str | None, policy: str, budget: Budget | None = None, namespace: str | None = None,
) -> RewardFleet:
    """The reward that `config.reward` names, shaped as it says. Starts nothing.

    model: what the reward stage made, for when reward has neither model nor function nor url. policy: folder or hub
    name of the model whose tokens the samples are made of. namespace: in which Ray finds its processes by their names.
    What sources are normalised with comes once it is started (reference_answers.settle_moments). Raises ConfigError.
    """
    section = config.reward
    if not (section.mix or section.overlong or section.normalise or section.clip):
        return _make_source(config, model, policy, budget, namespace)
    from scale_rlhf.reward.shaped import ShapedReward

    sources = {}
    for key, source in reward_sources(config).items():
        name = key.rpartition(".")[2]
        alone = config.model_copy(update={"reward": source})
        spaces = f"{namespace}-{name}" if namespace and section.mix else namespace  # two of them have a process 0
        sources[name] = (source, _make_source(alone, model, policy, budget, spaces))
    return ShapedReward(config, sources)


def make_judge(config: RunConfig, source: ScoreSource, *, policy: str) -> RewardFleet:
    """What scores answers as `source` says: a judge of the evaluation, by the same means as a reward. Starts nothing."""
    return _make_source(config.model_copy(update={"reward": source}), None, policy, None, None)


def placed(placement: Placement, config: RunConfig) -> list[list[dict]]:
    """Ray options of every process of the reward, [replica][worker], one source after the other."""
    return [replica for key, source in reward_sources(config).items()
            for replica in placement.replicas(key, source, *processes(source))]


def _make_source(
    config: RunConfig, model: str | None, policy: str, budget: Budget | None, namespace: str | None,
) -> RewardFleet:
    """One source, which stands in config.reward."""
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


def _outside(config: RunConfig, policy: str, budget: Budget | None, namespace: str | None) -> RewardFleet:
    from scale_rlhf.reward.text import Reader, read_tokenizer

    section = config.reward
    reader = Reader(read_tokenizer(policy, trust_remote_code=config.model.trust_remote_code))
    if section.function:
        from scale_rlhf.reward.function import FunctionReward

        return FunctionReward(config, section.function, reader, budget, namespace)
    from scale_rlhf.reward.service import ServiceReward

    return ServiceReward(config, section.url, reader)
