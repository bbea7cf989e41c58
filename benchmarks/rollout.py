"""2. Rollout: tokens a second of our fleet against vLLM's offline `generate`, on the same prompts and response lengths."""

from benchmarks import models
from benchmarks.alternate import alternate, column, rounds
from benchmarks.measure import at_least, figure
from benchmarks.options import Options
from benchmarks.peer import Peer
from benchmarks.progress import Progress
from benchmarks.result import Result

PROMPT = (8, 48)  # tokens
RESPONSE = {"median": 48, "sigma": 0.8, "low": 4, "high": 256}  # tokens, log-normal
REQUESTS = {"3M": 128, "50M": 64}
CONCURRENT = 64


def run(options: Options) -> Result:
    """Ours against offline generation that returns what PPO needs too, and against one that returns tokens alone."""
    size, threads = options.size, options.threads
    count = max(8, int(REQUESTS[size] * options.scale))
    prompts = models.prompts(count, size, low=PROMPT[0], high=PROMPT[1], seed=0)
    requests = list(zip(prompts, models.lengths(count, **RESPONSE, seed=0), strict=True))
    shared = {"requests": requests, "max_tokens": PROMPT[1] + RESPONSE["high"]}
    result = Result("rollout", size, {
        "threads": threads, "requests": count, "response_tokens": RESPONSE, "concurrent": CONCURRENT, "dtypes": options.dtypes})
    steps = len(options.dtypes) * (rounds(3, options.blocks) + 1)
    with Progress("rollout", steps) as progress, models.made(size) as model:
        for dtype in options.dtypes:
            progress.doing(f"starting two engines, {dtype}")
            rollout = {"dtype": dtype, "threads": threads, "max_concurrent": CONCURRENT, "kv_cache_gb": 0.5, "ignore_end": True}
            offline = {"dtype": dtype, "concurrent": CONCURRENT, "kv_cache_gb": 0.5}
            with (Peer("offline", {"model": model} | offline | shared, threads=threads) as other,
                  Peer("fleet", {"model": model, "rollout": rollout} | shared, threads=threads) as ours):
                progress.done("start")
                blocks = alternate({
                    "fleet": lambda ours=ours: ours.ask("block"),
                    "offline": lambda other=other: other.ask("block", logprobs=True),
                    "offline, tokens alone": lambda other=other: other.ask("block", logprobs=False),
                }, options.blocks, progress)
            result.blocks[dtype] = blocks
            result.figures += figures(dtype, blocks)
    return result


def figures(dtype: str, blocks: dict) -> list:
    rate = column(blocks, "fleet", "rate")
    return [
        figure(f"fleet, {dtype}", rate, column(blocks, "offline", "rate"), against="LLM.generate", unit="tokens/s",
               aim=at_least(0.95)),
        figure(f"fleet, {dtype}", rate, column(blocks, "offline, tokens alone", "rate"),
               against="LLM.generate without log-probabilities and seeds", unit="tokens/s"),
    ]
