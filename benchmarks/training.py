"""3. Training: tokens a second of the policy update on a natural mix of lengths.

The limit is the faster of two bare torch loops without padding waste: one over packed rows, one over batches of
neighbours in length. FLOP/s stand against one large matrix product on the same cores in the same type.
"""

from benchmarks import models
from benchmarks.alternate import Blocks, alternate, column, rounds
from benchmarks.measure import Figure, at_least, figure
from benchmarks.options import Options
from benchmarks.peer import Peer
from benchmarks.progress import Progress
from benchmarks.result import Result

RESPONSE = {"median": 64, "sigma": 0.8, "low": 4, "high": 384}  # tokens, log-normal
PROMPT = {"median": 20, "sigma": 0.5, "low": 4, "high": 64}
SAMPLES = {"3M": 64, "50M": 64}
BUDGET = 512  # tokens of a packed forward: ppo.tokens_per_microbatch's default
PADDED = 16  # samples of a padded forward


def run(options: Options) -> Result:
    size, threads = options.size, options.threads
    count = max(PADDED, int(SAMPLES[size] * options.scale))
    shapes = list(zip(models.lengths(count, **PROMPT, seed=1), models.lengths(count, **RESPONSE, seed=2), strict=True))
    result = Result("training", size, {
        "threads": threads, "samples": count, "prompt_tokens": PROMPT, "response_tokens": RESPONSE,
        "tokens_per_microbatch": BUDGET, "padded_samples": PADDED, "dtypes": options.dtypes})
    steps = len(options.dtypes) * (1 + rounds(5, options.blocks))
    with Progress("training", steps) as progress, models.made(size) as model:
        for dtype in options.dtypes:
            progress.doing(f"loading, {dtype}")
            setup = {"model": model, "size": size, "dtype": dtype, "threads": threads, "shapes": shapes, "budget": BUDGET,
                     "padded_samples": PADDED}
            with Peer("training", setup, threads=threads) as peer:
                progress.done("load")
                names = ("update", "packed", "by_length", "padded", "gemm")
                contenders = {name: lambda n=name, p=peer: p.ask(n) for name in names}
                blocks = alternate(contenders, options.blocks, progress)
                result.settings[f"batch {dtype}"] = peer.ready
            result.blocks[dtype] = blocks
            result.figures += figures(dtype, blocks)
    return result


def figures(dtype: str, blocks: Blocks) -> list[Figure]:
    rates = {name: column(blocks, name, "rate") for name in ("update", "packed", "by_length", "padded")}
    limit = [max(pair) for pair in zip(rates["packed"], rates["by_length"], strict=True)]
    update, unit = rates["update"], "tokens/s"
    return [
        figure(f"update, {dtype}", update, limit, against="bare torch, no padding", unit=unit, aim=at_least(0.9)),
        figure(f"update, {dtype}", update, rates["padded"], against="padded batches", unit=unit, aim=at_least(1.5)),
        figure(f"update, {dtype}", update, rates["packed"], against="bare torch, packed alike", unit=unit),
        figure(f"update, {dtype}", update, rates["by_length"], against="bare torch, batches by length", unit=unit),
        figure(f"arithmetic, {dtype}", [one / 1e9 for one in column(blocks, "update", "flops")],
               [one / 1e9 for one in column(blocks, "gemm", "flops")], against="one large GEMM", unit="GFLOP/s"),
    ]
