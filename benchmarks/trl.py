"""5. Against TRL, and against the limit.

The same model, prompts, batch, response length, optimizer steps and precision on the same two cores: TRL's GRPO trainer
and our loop with the same algorithm, synchronous and overlapped. Then our full PPO against the sum of its parts, each
measured alone in the same run. Peak memory is looked at in the warm-up round, which is not timed.
"""

from contextlib import ExitStack
from typing import Any

from benchmarks import models
from benchmarks.alternate import Blocks, Contenders, alternate, column, rounds
from benchmarks.measure import Figure, at_least, at_most, figure
from benchmarks.memory import PeakMemory
from benchmarks.options import Options
from benchmarks.peer import Peer
from benchmarks.progress import Progress
from benchmarks.result import Result

PROMPTS, GROUP, PROMPT, RESPONSE, BETA = 8, 8, 16, 64, 0.05
SAMPLES = PROMPTS * GROUP
MICROBATCH = {"3M": 64, "50M": 16}  # TRL's: what was fastest there
TOKENS_PER_MICROBATCH = {"3M": 1280, "50M": 1280}  # ours: 16 samples
STEPS = {"3M": (2, 3, 4), "50M": (1, 2, 4)}  # of a block: TRL, ours synchronous, ours overlapped
AIMS = {"overlapped": {"3M": 1.2, "50M": 1.2}, "synchronous": {"3M": 1.0, "50M": 1.15}}


def run(options: Options) -> Result:
    size = options.size
    result = Result("trl", size, {
        "threads": options.threads, "samples": SAMPLES, "prompts": PROMPTS, "prompt_tokens": PROMPT, "response_tokens": RESPONSE,
        "beta": BETA, "trl_microbatch": MICROBATCH[size], "tokens_per_microbatch": TOKENS_PER_MICROBATCH[size],
        "dtypes": options.dtypes})
    parts = [part for part in (grpo, ppo) if not options.only or part.__name__ in options.only]
    steps = len(options.dtypes) * sum(3 + rounds(3, options.blocks) for _ in parts)
    with Progress("trl", steps) as progress, models.made(size) as model:
        for dtype in options.dtypes:
            for part in parts:
                part(options, model, dtype, result, progress)
    return result


def grpo(options: Options, model: str, dtype: str, result: Result, progress: Progress) -> None:
    """TRL, ours at staleness 0, ours at staleness 1: group-relative advantages, no value model."""
    texts = models.digits(512, PROMPT)
    theirs = {"model": model, "dtype": dtype, "threads": options.threads, "prompts": texts, "group": GROUP, "response": RESPONSE,
              "samples": SAMPLES, "microbatch": MICROBATCH[options.size], "beta": BETA}
    with ExitStack() as stack:
        peers = {"TRL": _started(stack, progress, "trl", theirs, options.threads)}
        for name, busy in (("synchronous", options.threads), ("overlapped", 1)):
            setup = _setup(options, model, texts, sections(options.size, dtype, busy, critic=False))
            peers[name] = _started(stack, progress, "ours", setup, busy)
        blocks, memory = measured(contenders(peers, options), peers, options.blocks, progress)
    result.blocks[f"GRPO {dtype}"] = blocks
    rate = {name: column(blocks, name, "rate") for name in blocks}
    for name in ("overlapped", "synchronous"):
        result.figures.append(figure(
            f"GRPO {name}, {dtype}", rate[name], rate["TRL"], against="TRL", unit="samples/s",
            aim=at_least(AIMS[name][options.size])))
        result.figures.append(_memory(f"GRPO {name}, {dtype}", memory[name], memory["TRL"], "TRL"))


def ppo(options: Options, model: str, dtype: str, result: Result, progress: Progress) -> None:
    """Five roles, with models behind reward, reference, policy and value."""
    texts = models.digits(512, PROMPT)
    with ExitStack() as stack:
        peers = {}
        for name, busy in (("synchronous", options.threads), ("overlapped", 1)):
            setup = _setup(options, model, texts, sections(options.size, dtype, busy, critic=True))
            peers[name] = _started(stack, progress, "ours", setup, busy)
        steps = max(1, int(STEPS[options.size][1] * options.scale) // 2)
        timed = contenders(peers, options) | {"parts": lambda: peers["synchronous"].ask("parts", steps=steps)}
        progress.done("start")
        blocks, memory = measured(timed, peers, options.blocks, progress)
    result.blocks[f"PPO {dtype}"] = blocks
    alone = [sum(block[part] for part in ("generate", "score", "advantages", "update")) for block in blocks["parts"]]
    for name, aim in (("synchronous", 1.15), ("overlapped", 1.0)):
        result.figures.append(figure(f"PPO {name}, {dtype}", column(blocks, name, "seconds"), alone,
                                     against="sum of its parts alone", unit="s/step", aim=at_most(aim)))
    result.notes += [f"PPO {name}, {dtype}: peak memory {memory[name] / 2**30:.2f} GiB" for name in peers]


def sections(size: str, dtype: str, threads: int, *, critic: bool) -> dict[str, Any]:
    """Ours. threads: of the engine, and of a learner that has nothing beside it; roles that work at the same time have one."""
    learner = 1 if critic else threads
    trained = {"dtype": dtype, "threads": learner, "zero_stage": 0, "learning_rate": 1e-5}
    frozen = {"dtype": dtype, "threads": learner, "tokens_per_batch": 2048}
    ours = {
        "rollout": {"dtype": dtype, "threads": threads, "max_response_tokens": RESPONSE, "ignore_end": True,
                    "max_concurrent": 2 * SAMPLES, "kv_cache_gb": 0.3},
        "reference": frozen, "policy": trained, "value": trained | {"initial": "policy"},
        "reward": frozen if critic else {"function": "benchmarks.peers.ours:distinct_tokens"},
        "data": {"max_prompt_tokens": PROMPT}, "overlap": {"score_group": SAMPLES},
        "ppo": {"prompts_per_step": PROMPTS, "responses_per_prompt": GROUP, "epochs": 1, "minibatches": 1,
                "tokens_per_microbatch": TOKENS_PER_MICROBATCH[size], "kl_coefficient": BETA, "missing_end_penalty": None,
                "advantages": "gae" if critic else "group_relative"},
    }
    return ours


def contenders(peers: dict[str, Peer], options: Options) -> Contenders:
    theirs, synchronous, overlapped = (max(1, int(steps * options.scale)) for steps in STEPS[options.size])
    blocks = {
        "TRL": lambda: peers["TRL"].ask("block", steps=theirs),
        "synchronous": lambda: peers["synchronous"].ask("loop", steps=synchronous + 1, staleness=0, warm=1),
        "overlapped": lambda: peers["overlapped"].ask("loop", steps=overlapped + 3, staleness=1, warm=2, last=1),
    }
    return {name: block for name, block in blocks.items() if name in peers}


def measured(timed: Contenders, peers: dict[str, Peer], blocks: int, progress: Progress) -> tuple[Blocks, dict[str, int]]:
    """A warm-up round in which memory is looked at, then the blocks. Returns them, and the peak of each peer in bytes."""
    memory = {}
    for name, block in timed.items():
        progress.doing(f"{name}, warm-up")
        if name in peers:
            with PeakMemory(peers[name].process.pid) as watch:
                block()
            memory[name] = watch.peak
        else:
            block()
        progress.done(name)
    return alternate(timed, blocks, progress, warm_up=0), memory


def _setup(options: Options, model: str, texts: list[str], ours: dict[str, Any]) -> dict[str, Any]:
    from scale_rlhf.reward.text import read_tokenizer

    tokenizer = read_tokenizer(model)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    if {len(one) for one in ids} != {PROMPT}:
        raise ValueError(f"prompts are of {sorted({len(one) for one in ids})} tokens, not of {PROMPT}")
    return {"model": model, "size": options.size, "sections": ours, "prompts": ids}


def _started(stack: ExitStack, progress: Progress, module: str, setup: dict[str, Any], threads: int) -> Peer:
    progress.doing(f"starting {module}")
    peer = stack.enter_context(Peer(module, setup, threads=threads))
    progress.done("start")
    return peer


def _memory(name: str, ours: int, other: int, against: str) -> Figure:
    return figure(f"peak memory, {name}", [ours / 2**30], [other / 2**30], against=against, unit="GiB")
