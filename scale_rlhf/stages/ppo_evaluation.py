"""What PPO is evaluated on while it trains: held-out prompts, and the judge that the configuration names."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import DataError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.evaluations import Judge as AsksJudge
from scale_rlhf.orchestration.evaluations import Verdicts
from scale_rlhf.orchestration.held_out_log import asked
from scale_rlhf.stages.evaluation_judging import Judge

if TYPE_CHECKING:
    from scale_rlhf.orchestration.run_folder import RunFolder

FIRST = -1000  # index of the first held-out prompt, those after it count down: samples count from 0, probes from -1


@dataclass(frozen=True)
class HeldOut:
    """prompts: none where nothing is evaluated during training. judge: None where none is named."""

    prompts: Sequence[Prompt] = ()
    judge: AsksJudge | None = None


def held_out(config: RunConfig, folder: RunFolder, tokenizer) -> HeldOut:
    """Raises DataError where there are no held-out prompts, ConfigError for a judge that cannot be imported."""
    if config.evaluation.every is None:
        return HeldOut()
    # By name alone: the practice world's truth, which is the evaluation's default, stays unseen while anything trains.
    judge = Judge(config.evaluation.judge) if config.evaluation.judge else None
    return HeldOut(held_out_prompts(config, folder, tokenizer), judge and beside(judge, tokenizer))


def held_out_prompts(config: RunConfig, folder: RunFolder, tokenizer) -> list[Prompt]:
    """The first evaluation.during_prompts of those that no stage trains on; the same at every version, with the same seeds."""
    from scale_rlhf.data.chat import prompt_ids
    from scale_rlhf.data.limit import within_limit
    from scale_rlhf.data.sources import sources

    rows = sources(config, folder).evaluation_prompts()
    limit = config.data.max_prompt_tokens
    rows, _ = within_limit(rows, lambda messages: len(prompt_ids(tokenizer, messages)), limit, config.data.long_prompts)
    if not rows:
        raise DataError("data.evaluation: evaluation.every asks held-out prompts, and there are none; give a file with some, or "
                        "raise data.hold_out")
    return [Prompt(FIRST - place, -1, np.asarray(prompt_ids(tokenizer, row["messages"]), dtype=np.int32), row)
            for place, row in enumerate(rows[: config.evaluation.during_prompts])]


def beside(judge: Judge, tokenizer) -> AsksJudge:
    """The judge, asked in a thread."""

    async def judged(answers: Sequence[Sample]) -> Verdicts:
        texts = [(asked(one), tokenizer.decode(one.response_ids.tolist(), skip_special_tokens=True)) for one in answers]
        return await in_thread(lambda: [asdict(judge(prompt, response)) for prompt, response in texts])

    return judged


async def in_thread(call: Callable[[], Any]) -> Any:
    """What `call` returns or raises. Unlike asyncio.to_thread's, the thread of a call that hangs keeps no run from ending."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if answer.done():
            return  # given up
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def run() -> None:
        result = error = None
        try:
            result = call()
        except Exception as failure:  # noqa: BLE001 - it is raised where it is waited for
            error = failure
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="judge", daemon=True).start()
    return await answer
