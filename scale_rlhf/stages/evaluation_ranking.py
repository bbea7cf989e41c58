"""Does the reward model rank as the truth does? On pairs of responses that it never trained on, rated by people or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.stages.evaluation_judging import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.data.sources import ResolvedSources
    from scale_rlhf.orchestration.run_folder import RunFolder

MAX_PAIRS = 1000


@dataclass(frozen=True)
class RankedPairs:
    """Two responses to each prompt, the better one first by true quality."""

    samples: list[Sample]  # better, worse, better, worse, …

    def share_right(self, scores: Sequence[float]) -> float | None:
        """Share of pairs whose better response has the higher score; equal scores count half. scores: of `samples`."""
        if not self.samples:
            return None
        better, worse = np.asarray(scores[::2]), np.asarray(scores[1::2])
        return float(np.mean((better > worse) + 0.5 * (better == worse)))


def held_out_pairs(config: RunConfig, folder: RunFolder, tokenizer: PreTrainedTokenizerBase, judge: Judge | None) -> RankedPairs:
    """Held-out pairs of `data.preferences` that differ in true quality; none without a judge or preferences.

    Pairs whose ratings are closer than reward_model.minimum_gap, which training leaves out, are among them.
    """
    from scale_rlhf.data.sources import sources

    found = sources(config, folder)
    if judge is None or found.preferences is None or not config.data.hold_out:
        return RankedPairs([])
    samples: list[Sample] = []
    for row, responses in _held_out(config, found):
        asked = row["messages"][-1]["content"]
        texts = sorted(responses, key=lambda text: -judge(asked, text).score)
        if judge(asked, texts[0]).score > judge(asked, texts[1]).score:
            samples += [_sample(tokenizer, row["messages"], text) for text in texts]
        if len(samples) >= 2 * MAX_PAIRS:
            break
    return RankedPairs(samples)


def _held_out(config: RunConfig, found: ResolvedSources) -> Iterator[tuple[dict, tuple[str, str]]]:
    """Row and two of its responses, whatever form the feedback has."""
    if config.reward_model.feedback == "pairs":
        yield from ((row, (row["chosen"], row["rejected"])) for row in replace(found, minimum_gap=1e-6).preference_split()[1])
    else:
        for row in found.feedback_split(config.reward_model)[1]:
            yield from ((row, two) for two in combinations(row["responses"], 2))


def _sample(tokenizer: PreTrainedTokenizerBase, messages: list[dict], text: str) -> Sample:
    from scale_rlhf.data.chat import dialogue_ids, prompt_ids

    prompt = prompt_ids(tokenizer, messages)
    whole, _ = dialogue_ids(tokenizer, [*messages, {"role": "assistant", "content": text}])
    response = np.asarray(whole[len(prompt):], dtype=np.int32)
    none = np.zeros(len(response), dtype=np.float32)
    row = {"messages": messages, "prompt": messages[-1]["content"]}
    return Sample(Prompt(-1, -1, np.asarray(prompt, dtype=np.int32), row), response, none, none.astype(np.int32), ended=True)
