"""Is what the evaluation is to compare named as it can be: models, prompt sets, judges. Imports no torch."""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from scale_rlhf.config.places import find_file, is_local
from scale_rlhf.config.reward_sources import judge_sources
from scale_rlhf.config.schema import STAGES, RunConfig
from scale_rlhf.errors import DataError

HELD_OUT = "held_out"  # the set that is always there


def check_judges(config: RunConfig) -> Iterator[str]:
    """Yields what is wrong in `evaluation`."""
    section = config.evaluation
    for name in section.models:
        if name in STAGES:
            yield f"evaluation.models.{name}: so the run's own models are called ({', '.join(STAGES)}); give it another name"
    for name, source in section.prompt_sets.items():
        key = f"evaluation.prompt_sets.{name}"
        if name == HELD_OUT:
            yield f"{key}: so the held-out prompts of the run are called; give it another name"
        if is_local(source.path):
            try:
                find_file(source.path, key)
            except DataError as error:
                yield str(error)
        for judge in source.judges or []:
            if judge not in section.judges:
                near = get_close_matches(judge, section.judges, n=1)
                yield (f"{key}.judges: expected some of evaluation.judges ({', '.join(section.judges) or 'there are none'}); "
                       f"found {judge}{f'; did you mean {near[0]}?' if near else ''}")
    yield from _sources(config)


def _sources(config: RunConfig) -> Iterator[str]:
    for key, source in judge_sources(config).items():
        given = [kind for kind in ("model", "function", "url") if getattr(source, kind)]
        if len(given) != 1:
            yield f"{key}: expected exactly one of model, function and url; found {' and '.join(given) or 'none of them'}"
        if source.url and not re.match(r"https?://[^/\s]+", source.url):
            yield f"{key}.url: expected an address that begins with http:// or https://; found {source.url}"
        if source.model and key.endswith(".verify"):
            yield (f"{key}.model: a model's score does not say whether an answer is right; give a function or a url, or name the "
                   "model in evaluation.judges")
        if source.model and getattr(source, "pairwise", False):
            yield f"{key}.pairwise: a reward model scores one answer at a time; give a function or a url, or leave it out"
        if source.aspects and not any(source.aspects.values()):
            yield f"{key}.aspects: every weight is 0, and so every score would be; give one that is not"
