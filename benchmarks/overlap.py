"""1. Overlap efficiency: the engine on one core, everything else on the other, answers of long-tailed lengths.

    rollout alone   generate batches without a pause, load a version, with nothing else running
    learner alone   score, update and publish what was generated, with no sample decoding
    ideal           the busier of the two

The sides are balanced within 1 : 1.5 by how many samples decode at once, which is found in the run and said in the notes.
"""

import math

from benchmarks import models
from benchmarks.alternate import Blocks, alternate, column, rounds
from benchmarks.measure import Figure, at_least, at_most, figure
from benchmarks.options import Options
from benchmarks.peer import Peer
from benchmarks.progress import Progress
from benchmarks.result import Result

SAMPLES = {"3M": 32, "50M": 16}  # of a batch
PROMPT = 16  # tokens
RESPONSE = {"median": 40, "sigma": 0.8, "low": 4, "high": 240}  # tokens, log-normal
CONCURRENCY = (6, 8, 11)
STEPS = {"3M": 3, "50M": 3}  # counted steps of a block
WARM = 2  # before them: the pipeline fills. Every contender counts the same batches, for some have longer answers than others
BALANCED = 1.5
SLACK = 1.4  # the learner is to be the busier side, as one would set a run up; engines that wait cost it nothing


def run(options: Options) -> Result:
    size = options.size
    result = Result("overlap", size, {
        "samples": SAMPLES[size], "prompt_tokens": PROMPT, "response_tokens": RESPONSE, "cores": "engine 0, all else 1",
        "steps": max(2, int(STEPS[size] * options.scale))})
    count = 32 * SAMPLES[size]
    prompts = models.prompts(count, size, low=PROMPT, high=PROMPT, seed=0)
    setup = {"size": size, "sections": sections(size), "prompts": prompts, "lengths": models.lengths(count, **RESPONSE, seed=0)}
    with Progress("overlap", 1 + len(CONCURRENCY) + rounds(5, options.blocks, warm_up=0)) as progress, models.made(size) as model:
        progress.doing("starting five roles")
        with Peer("ours", setup | {"model": model, "pinned": True}, threads=1) as peer:
            progress.done("start")
            result.notes.append(balance(peer, result.settings["steps"], progress))
            # Balancing has warmed every role, and each loop its own pipeline.
            blocks = alternate(contenders(peer, result.settings["steps"]), options.blocks, progress, warm_up=0)
    result.blocks["step"] = blocks
    result.figures += figures(blocks)
    result.notes += explained(blocks)
    return result


def sections(size: str) -> dict:
    """Full PPO with a function as reward; one thread each."""
    trained = {"threads": 1, "zero_stage": 0, "learning_rate": 1e-5}
    return {
        "rollout": {"threads": 1, "max_response_tokens": RESPONSE["high"], "ignore_end": True, "max_concurrent": max(CONCURRENCY),
                    "kv_cache_gb": 0.3},
        "reward": {"function": "benchmarks.peers.ours:distinct_tokens"}, "reference": {"threads": 1, "max_wait_ms": 500},
        "policy": trained, "value": trained | {"initial": "policy"}, "data": {"max_prompt_tokens": PROMPT},
        "overlap": {"score_group": 8},
        "ppo": {"prompts_per_step": SAMPLES[size], "epochs": 1, "minibatches": 1, "kl_coefficient": 0.05,
                "missing_end_penalty": None},
    }


def contenders(peer: Peer, steps: int) -> dict:
    def loop(staleness: int):
        return lambda: peer.ask("loop", steps=WARM + steps + staleness, staleness=staleness, warm=WARM, last=staleness)

    return {
        "alone": lambda: alone(peer, steps),
        "batch-synchronous": lambda: peer.ask("batch_synchronous", steps=steps, first=WARM),
        **{f"staleness {staleness}": loop(staleness) for staleness in (0, 1, 2)},
    }


def alone(peer: Peer, steps: int) -> dict[str, float]:
    """Every part of a step with nothing else running, and what follows for each core."""
    return sides(peer.ask("stream", steps=steps, first=WARM) | peer.ask("learner"))


def sides(parts: dict[str, float]) -> dict[str, float]:
    """The busy time of each core in a step, from its parts measured alone.

    The rollout's is that of a stream of batches: an engine that goes on with the next batch never waits for stragglers.
    """
    rollout = parts["stream"] + parts["load"]
    learner = parts["score"] + parts["advantages"] + parts["update"] + parts["publish"]
    return parts | {"rollout": rollout, "learner": learner, "ideal": max(rollout, learner)}


def balance(peer: Peer, steps: int, progress: Progress) -> str:
    """Let as many samples decode at once as make generation quicker than learning by SLACK, on the batches that will be
    counted. Says what was chosen.
    """
    streams = {}
    for concurrency in CONCURRENCY:
        progress.doing(f"balancing: {concurrency} samples at once")
        peer.ask("limit", concurrency=concurrency)
        streams[concurrency] = peer.ask("stream", steps=steps, first=WARM)
        progress.done("balance")
    learner = peer.ask("learner")
    found = {concurrency: sides(stream | learner) for concurrency, stream in streams.items()}
    slack = {concurrency: one["learner"] / one["rollout"] for concurrency, one in found.items()}
    best = min(slack, key=lambda concurrency: abs(math.log(slack[concurrency] / SLACK)))
    peer.ask("limit", concurrency=best)
    within = "within" if max(slack[best], 1 / slack[best]) <= BALANCED else "not within"
    return f"{best} samples decode at once: rollout to learner is then 1 : {slack[best]:.2f}, {within} 1 : {BALANCED}"


def figures(blocks: Blocks) -> list[Figure]:
    ideal, whole = column(blocks, "alone", "ideal"), column(blocks, "batch-synchronous", "seconds")
    found = [
        figure(name, column(blocks, name, "seconds"), ideal, against="ideal", unit="s/step",
               aim=at_most(1.1) if name == "staleness 1" else None)
        for name in ("batch-synchronous", "staleness 0", "staleness 1", "staleness 2")
    ]
    for name, aim in (("staleness 1", at_least(0.9)), ("staleness 2", None)):
        gained = [long - short for long, short in zip(whole, column(blocks, name, "seconds"), strict=True)]
        possible = [long - best for long, best in zip(whole, ideal, strict=True)]
        found.append(figure(f"gain at {name}", gained, possible, against="possible", unit="s/step", aim=aim))
    return found


def explained(blocks: Blocks) -> list[str]:
    """Where the time of a step goes, in seconds: medians over the blocks."""
    from statistics import median

    alone = {key: median(column(blocks, "alone", key)) for key in blocks["alone"][0] if key != "wall_seconds"}
    lines = ["alone: " + ", ".join(f"{key} {value:.3f}" for key, value in alone.items()) + " s"]
    for name in ("staleness 0", "staleness 1", "staleness 2"):
        idle = {key: median(column(blocks, name, key)) for key in blocks[name][0] if key.startswith("idle/")}
        lines.append(f"{name}: " + ", ".join(f"{key} {value:.0%}" for key, value in idle.items()))
    return lines
