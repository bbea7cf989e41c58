"""From configuration to vLLM's sampling parameters, and from its output to a Sample."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scale_rlhf.config.schema import RolloutSection
from scale_rlhf.experience.sample import Prompt, Sample

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


def sample_seed(run_seed: int, index: int) -> int:
    """Seed of one sample: it depends on the run and the sample's index alone, so a sample issued again is the same."""
    return int.from_bytes(hashlib.blake2b(f"{run_seed}/{index}".encode(), digest_size=4).digest(), "big") >> 1


def sampling_params(
    rollout: RolloutSection, end_token_ids: Sequence[int], seed: int, *,
    temperature: float | None = None, max_tokens: int | None = None,
) -> "SamplingParams":
    """Parameters of one request. Temperature and length are the rollout's unless given (evaluation)."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    ends = [] if rollout.ignore_end else [*end_token_ids, *rollout.stop_token_ids]
    return SamplingParams(
        temperature=rollout.temperature if temperature is None else temperature,
        top_p=rollout.top_p, top_k=rollout.top_k or -1,
        max_tokens=max_tokens or rollout.max_response_tokens,
        stop=rollout.stop or None, include_stop_str_in_output=True,
        stop_token_ids=ends, ignore_eos=True,  # the end token is in `ends`, named by us and not guessed from files
        seed=seed, logprobs=0, flat_logprobs=True, detokenize=bool(rollout.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_sample(prompt: Prompt, output: "RequestOutput") -> Sample:
    """A finished request as a Sample: tokens, their log-probabilities, their policy versions."""
    completion = output.outputs[0]
    ids = np.asarray(completion.token_ids, dtype=np.int32)
    flat = completion.logprobs
    logprobs = np.asarray([flat.logprobs[start] for start in flat.start_indices], dtype=np.float32)
    versions = np.zeros(len(ids), dtype=np.int32)
    for span in completion.weight_versions or ():
        versions[span.start : span.end] = int(span.version)
    return Sample(prompt, ids, logprobs, versions, ended=completion.finish_reason == "stop")
