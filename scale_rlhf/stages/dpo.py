"""Alignment without a reward model: DPO, IPO and cDPO from preferences, KTO from good and bad answers.

The reference is the model that the stage starts from, frozen beside the one that is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.stages.models import starting_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Train models/dpo. Returns loss; accuracy, margin and number of the held-out pairs (or answers); seconds."""
    from scale_rlhf.data.chat import load_tokenizer
    from scale_rlhf.data.sources import sources
    from scale_rlhf.training.supervised import train

    section, files = config.dpo, sources(config, folder)
    start = starting_model(config, folder, "dpo")
    tokenizer = load_tokenizer(start, config.model)
    if section.loss == "kto":
        kind, tokens, parts = "kto", judged, files.judgement_split()
    else:
        kind, tokens, parts = "dpo", pairs, files.preference_split()
    rows, held_out = (tokens(part, tokenizer, section.max_tokens) for part in parts)
    return train(kind, config, folder, "dpo", section=section, start=start, tokenizer=tokenizer, rows=rows, held_out=held_out)


def pairs(preferences: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Dataset[prompt_ids, chosen_ids, rejected_ids]: the answers with their end tokens, cut where prompt and answer together
    pass max_tokens. A pair whose prompt leaves no room for an answer is left out.

    preferences: rows {"messages", "chosen", "rejected"}.
    """
    rows = []
    for row in preferences:
        (prompt, chosen), (_, rejected) = (prompt_and_answer(tokenizer, row["messages"], row[side], max_tokens)
                                           for side in ("chosen", "rejected"))
        if chosen and rejected:
            rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return _dataset(rows, ("prompt_ids", "chosen_ids", "rejected_ids"))


def judged(judgements: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Dataset[prompt_ids, completion_ids, KL_completion_ids, label], cut as `pairs` are.

    judgements: rows {"messages", "response", "good"}. KL_completion_ids are the answer to another prompt, of which KTO takes its
    reference point: that of the row half the data away, as neighbours often share their prompt.
    """
    rows = []
    for row in judgements:
        prompt, answer = prompt_and_answer(tokenizer, row["messages"], row["response"], max_tokens)
        if answer:
            rows.append({"prompt_ids": prompt, "completion_ids": answer, "label": bool(row["good"])})
    for place, row in enumerate(rows):
        other = rows[(place + len(rows) // 2) % len(rows)]["completion_ids"]
        row["KL_completion_ids"] = other[: max_tokens - len(row["prompt_ids"])]
    return _dataset(rows, ("prompt_ids", "completion_ids", "KL_completion_ids"), label=True)


def prompt_and_answer(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], answer: str, max_tokens: int,
) -> tuple[list[int], list[int]]:
    """Tokens before the assistant's last turn, and those of that turn, at most max_tokens together."""
    from scale_rlhf.data.chat import dialogue_ids

    ids, said = dialogue_ids(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    begins = len(said)
    while begins and said[begins - 1]:
        begins -= 1
    return ids[:begins], ids[begins:max_tokens]


def _dataset(rows: list[dict], tokens: tuple[str, ...], label: bool = False) -> Dataset:
    from datasets import Dataset, Features, List, Value

    features = {name: List(Value("int64")) for name in tokens} | ({"label": Value("bool")} if label else {})
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=Features(features))
