"""vLLM's own offline `LLM.generate`: the limit of the rollout benchmark."""

import os
import time

from benchmarks.peer import serve


class Offline:
    """An engine made by `vllm.LLM` with the settings of our rollout actor where they matter."""

    def __init__(
        self, model: str, dtype: str, requests: list[tuple[list[int], int]], max_tokens: int, concurrent: int, kv_cache_gb: float,
    ):
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
        from vllm import LLM

        self.requests = requests
        self.engine = LLM(
            model, dtype=dtype, max_model_len=max_tokens, max_num_seqs=concurrent, skip_tokenizer_init=True,
            generation_config="vllm", enable_prefix_caching=False, enforce_eager=True, enable_chunked_prefill=False,
            kv_cache_memory_bytes=int(kv_cache_gb * 2**30), max_num_batched_tokens=max(max_tokens, 4096),
            logprobs_mode="processed_logprobs", disable_log_stats=True,
        )

    def block(self, logprobs: bool) -> dict[str, float]:
        """Answer all requests once. logprobs: also return the sampled tokens' log-probabilities, with a seed a request, as PPO
        needs them; False: the least that generation can be.
        """
        from vllm import SamplingParams

        def params(place: int, length: int) -> SamplingParams:
            wanted = {"logprobs": 0, "flat_logprobs": True, "seed": place} if logprobs else {}
            return SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False, **wanted)

        inputs = [{"prompt_token_ids": ids} for ids, _ in self.requests]
        chosen = [params(place, length) for place, (_, length) in enumerate(self.requests)]
        started = time.perf_counter()
        outputs = self.engine.generate(inputs, chosen, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return {"seconds": seconds, "tokens": tokens, "rate": tokens / seconds}


if __name__ == "__main__":
    serve(Offline)
