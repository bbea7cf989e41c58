"""The sources of a run's reward: one, or several that are mixed. Imports no torch."""

from scale_rlhf.config.schema import RewardSource, RunConfig


def reward_sources(config: RunConfig) -> dict[str, RewardSource]:
    """Every source by the path of its section: `reward`, or `reward.mix.NAME` for each that is mixed."""
    mix = config.reward.mix
    return {f"reward.mix.{name}": source for name, source in mix.items()} if mix else {"reward": config.reward}


def outside(source: RewardSource) -> bool:
    """Whether no model of this run is behind it."""
    return bool(source.function or source.url)


def all_outside(config: RunConfig) -> bool:
    """Whether no source is a model."""
    return all(outside(source) for source in reward_sources(config).values())


def reward_functions(config: RunConfig) -> dict[str, str]:
    """Import paths of the functions among the sources, by their keys."""
    return {f"{key}.function": source.function for key, source in reward_sources(config).items() if source.function}


def processes(source: RewardSource) -> tuple[int, int]:
    """(replicas, processes of each) that a source starts. A service has none here."""
    if source.url:
        return 0, 0
    return source.replicas, 1 if source.function else source.workers
