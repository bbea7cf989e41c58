"""The sources of a run's reward, one or several that are mixed, and of its judges' scores. Imports no torch."""

from scale_rlhf.config.schema import RewardSource, RunConfig, ScoreSource


def reward_sources(config: RunConfig) -> dict[str, RewardSource]:
    """Every source by the path of its section: `reward`, or `reward.mix.NAME` for each that is mixed."""
    mix = config.reward.mix
    return {f"reward.mix.{name}": source for name, source in mix.items()} if mix else {"reward": config.reward}


def judge_sources(config: RunConfig) -> dict[str, ScoreSource]:
    """What judges answers in the evaluation, by the path of its section: its judges, and what verifies a prompt set."""
    section = config.evaluation
    judges = {f"evaluation.judges.{name}": source for name, source in section.judges.items()}
    verified = {name: one.verify for name, one in section.prompt_sets.items() if one.verify}
    return judges | {f"evaluation.prompt_sets.{name}.verify": source for name, source in verified.items()}


def outside(source: ScoreSource) -> bool:
    """Whether no model of this run is behind it."""
    return bool(source.function or source.url)


def all_outside(config: RunConfig) -> bool:
    """Whether no source is a model."""
    return all(outside(source) for source in reward_sources(config).values())


def reward_functions(config: RunConfig) -> dict[str, str]:
    """Import paths of the functions among the sources, by their keys."""
    return {f"{key}.function": source.function for key, source in reward_sources(config).items() if source.function}


def judge_functions(config: RunConfig) -> dict[str, str]:
    """Import paths of the functions that judge in the evaluation, by their keys."""
    found = {f"{key}.function": source.function for key, source in judge_sources(config).items() if source.function}
    return found | ({"evaluation.judge": config.evaluation.judge} if config.evaluation.judge else {})


def processes(source: ScoreSource) -> tuple[int, int]:
    """(replicas, processes of each) that a source starts. A service has none here."""
    if source.url:
        return 0, 0
    return source.replicas, 1 if source.function else source.workers
