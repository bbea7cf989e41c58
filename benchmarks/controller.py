"""6. The controller: samples a second through admission, buffer, grouping and batching, with simulated engines and no Ray.

The engines are fakes on purpose: 4,096 real ones do not fit, and what is measured is everything but them. Twice: the
structures alone, and the real `Loop` with the real `RolloutFleet`, in which only the actors behind the roles are simulated.
"""

import asyncio
import time

import numpy as np

from benchmarks.alternate import Numbers, alternate, column, rounds
from benchmarks.measure import at_least, at_most, figure
from benchmarks.options import Options
from benchmarks.progress import Progress
from benchmarks.result import Result
from benchmarks.simulated import PROMPT, RESPONSE, prompt_stream, roles, run_config
from scale_rlhf.experience.admission import Admission
from scale_rlhf.experience.buffer import Buffer, Scored
from scale_rlhf.experience.grouping import ScoringGroups
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.training.batch import minibatches

ENGINES = (8, 64, 512, 4096)
SLOTS = 4  # samples an engine decodes at once; a batch is as many as all engines hold
SAMPLES = 16_000  # least of a block
STALENESS = 1
AIM = 10_000.0  # samples a second


def run(options: Options) -> Result:
    result = Result("controller", options.size, {
        "engines": ENGINES, "slots": SLOTS, "max_staleness": STALENESS, "prompt_tokens": PROMPT, "response_tokens": RESPONSE})
    parts = {"structures": structures, "loop": whole_loop}
    with Progress("controller", len(parts) * rounds(len(ENGINES), options.blocks)) as progress:
        for part, measure in parts.items():
            contenders = {f"{part}, {engines} engines": lambda n=engines, m=measure: m(n, options.scale) for engines in ENGINES}
            result.blocks[part] = blocks = alternate(contenders, options.blocks, progress)
            result.figures += figures(part, blocks, options.blocks)
    result.notes.append("Engines are simulated: an answer is there as soon as the event loop comes round, in random order.")
    return result


def figures(part: str, blocks: dict, count: int) -> list:
    names = {engines: f"{part}, {engines} engines" for engines in ENGINES}
    rates = {engines: column(blocks, name, "rate") for engines, name in names.items()}
    found = [figure(names[n], rate, [AIM] * count, against="asked for", unit="samples/s", aim=at_least(1.0))
             for n, rate in rates.items()]
    costs = {n: [1e6 / one for one in rate] for n, rate in rates.items()}
    return [*found, figure(f"{part}: cost a sample, {ENGINES[-1]} engines", costs[ENGINES[-1]], costs[ENGINES[0]],
                           against=f"{ENGINES[0]} engines", unit="µs", aim=at_most(1.2))]


def steps(engines: int, scale: float) -> tuple[int, int]:
    """(batch, updates) of a block."""
    batch = engines * SLOTS
    return batch, max(3, int(SAMPLES * scale) // batch)


def structures(engines: int, scale: float) -> Numbers:
    """Admission, buffer, grouping and the cut into minibatches, called as the loop calls them."""
    batch, updates = steps(engines, scale)
    admission = Admission(batch, STALENESS, total=updates * batch)
    buffer, groups = Buffer(batch, STALENESS), ScoringGroups(16)
    random, running = np.random.default_rng(0), []
    picks = iter(random.random(updates * batch).tolist())
    started = time.perf_counter()
    while not admission.done:
        while admission.allowed:
            index = admission.admitted
            buffer.admitted(index, admission.admit())
            groups.admit(index)
            running.append(index)
        groups.close()
        if buffer.whole:
            minibatches(len(buffer.take()), 2, seed=0, version=admission.version, epoch=0)
            admission.train(batch)
            continue
        place = int(next(picks) * len(running))
        running[place], running[-1] = running[-1], running[place]
        if group := groups.add(_sample(running.pop(), admission.version)):
            for sample in group[1]:
                buffer.add(Scored(sample, 0.0, _ZEROS))
    return _rate(updates * batch, started)


def whole_loop(engines: int, scale: float) -> Numbers:
    """The real loop, with roles that answer at once."""
    from scale_rlhf.orchestration.loop import Loop

    batch, updates = steps(engines, scale)
    config = run_config(engines, batch, updates, STALENESS)

    async def go() -> Numbers:
        started_roles = await roles(config)
        loop = Loop(config, started_roles, prompt_stream(), _nothing)
        started = time.perf_counter()
        await loop.run()
        return _rate(updates * batch, started)

    return asyncio.run(go())


_ZEROS = np.zeros(RESPONSE, np.float32)
_IDS = np.zeros(RESPONSE, np.int32)
_PROMPT_IDS = np.zeros(PROMPT, np.int32)


def _sample(index: int, version: int) -> Sample:
    return Sample(Prompt(index, index, _PROMPT_IDS), _IDS, _ZEROS, np.full(RESPONSE, version, np.int32), True)


def _rate(samples: int, started: float) -> Numbers:
    seconds = time.perf_counter() - started
    return {"samples": samples, "seconds": seconds, "rate": samples / seconds}


async def _nothing(step) -> None:
    pass
