"""Every file of data read once before a run starts: form, columns, and the length of its prompts."""

from collections.abc import Callable, Sized
from pathlib import Path

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.data.limit import within_limit
from scale_rlhf.data.sources import ResolvedSources
from scale_rlhf.errors import DataError, UserError


def check_data(config: RunConfig, sources: ResolvedSources, stages: list[str] | None = None) -> list[str]:
    """Raises DataError for all that is wrong with the files that `stages` read; returns notes (prompts left out, counted)."""
    stages = stages or list(config.run.stages)
    notes: list[str] = []
    mistakes = []
    for check in (_training_rows, _prompt_lengths):
        try:
            check(config, sources, stages, notes)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise DataError("\n".join(dict.fromkeys(mistakes)))
    return notes


def _training_rows(config: RunConfig, sources: ResolvedSources, stages: list[str], notes: list[str]) -> None:
    mistakes = []
    readers: dict[str, Callable] = {}
    if "base" in stages and config.model.path is None:
        readers["base_text"] = sources.training_text
    if "sft" in stages:
        readers["instructions"] = sources.training_instructions
    if "reward" in stages:
        readers["preferences"] = lambda: _feedback(config, sources)
    if "dpo" in stages and config.dpo.loss != "kto":
        readers["preferences as pairs"] = lambda: sources.preference_split()[0]
    if "dpo" in stages and config.dpo.loss == "kto":
        readers["preferences as good and bad answers"] = lambda: sources.judgement_split()[0]
    for name, reader in readers.items():
        try:
            if not len(reader()):
                mistakes.append(f"data.hold_out: {config.data.hold_out:g} leaves no rows of data.{name} to train on")
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise DataError("\n".join(mistakes))


def _feedback(config: RunConfig, sources: ResolvedSources) -> Sized:
    if config.reward_model.feedback == "pairs":
        return sources.preference_split()[0]
    return sources.feedback_split(config.reward_model)[0]


def _prompt_lengths(config: RunConfig, sources: ResolvedSources, stages: list[str], notes: list[str]) -> None:
    prompts = ("data.prompts", sources.training_prompts)
    wanted = {"best_of_n": prompts, "ppo": prompts, "evaluate": ("data.evaluation", sources.evaluation_prompts)}
    rows = {key: reader() for stage, (key, reader) in wanted.items() if stage in stages}
    if not any(rows.values()):
        if rows:
            raise DataError(f"{' and '.join(rows)}: no prompts are left after data.hold_out ({config.data.hold_out:g})")
        return
    count = _counter(config, sources)
    for key, prompts in rows.items():
        if not prompts:
            raise DataError(f"{key}: no prompts are left after data.hold_out ({config.data.hold_out:g})")
        _, dropped = within_limit(prompts, count, config.data.max_prompt_tokens, config.data.long_prompts)
        if dropped:
            notes.append(f"{key}: {dropped} of {len(prompts)} prompts are longer than data.max_prompt_tokens "
                         f"({config.data.max_prompt_tokens}) and are left out")


def _counter(config: RunConfig, sources: ResolvedSources) -> Callable[[list[dict]], int]:
    """Tokens of a prompt by the tokenizer that the policy will have; a scratch model's is trained here as the stage will."""
    from scale_rlhf.data.chat import load_tokenizer, prompt_ids
    from scale_rlhf.models.scratch import train_tokenizer

    path = config.policy.model or config.sft.model or config.model.path
    if path:
        tokenizer = load_tokenizer(path, config.model)
    else:
        template = Path(config.model.chat_template).read_text(encoding="utf-8") if config.model.chat_template else None
        tokenizer = train_tokenizer(sources.training_text()["text"], config.model.scratch, template)
    return lambda messages: len(prompt_ids(tokenizer, messages))
