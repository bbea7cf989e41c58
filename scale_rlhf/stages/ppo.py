"""PPO: five roles, each its own actors, one loop. This file composes them; `orchestration/loop.py` is the algorithm's course."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import xxhash

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.bad_numbers import BadNumbers
from scale_rlhf.orchestration.checkpoint import Checkpoints
from scale_rlhf.orchestration.deadlines import RoleFailed
from scale_rlhf.orchestration.evaluations import Evaluations
from scale_rlhf.orchestration.health import Budget
from scale_rlhf.orchestration.loop import Loop, Step
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.orchestration.record import Record
from scale_rlhf.orchestration.roles import Roles, StartingModels
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.orchestration.watch import Watch
from scale_rlhf.reward.reference_answers import settle_moments
from scale_rlhf.stages.ppo_evaluation import HeldOut, held_out


def run(config: RunConfig, folder: RunFolder) -> dict[str, float | str]:
    """Align the policy, from the newest checkpoint where there is one. Leaves models/ppo, metrics/ppo.jsonl and
    ppo/samples.jsonl in the run's folder.
    """
    from scale_rlhf.data.chat import load_tokenizer

    models = starting_models(config, folder)
    tokenizer = load_tokenizer(models.policy, config.model)
    token_ids, rows = training_prompts(config, folder, tokenizer)
    judged = held_out(config, folder, tokenizer)
    started = time.monotonic()
    with Record(config, folder, tokenizer) as record:
        training = Training(config, folder, models, [tokenizer.eos_token_id], token_ids, rows, record, judged)
        accounts = asyncio.run(training.run())
    return record.summary() | accounts | {"seconds": time.monotonic() - started}


class Training:
    """The stage from start to end: roles that start, go on from the newest checkpoint, and are ended, whatever happens."""

    def __init__(self, config: RunConfig, folder: RunFolder, models: StartingModels, end_token_ids: Sequence[int],
                 token_ids: Sequence[Sequence[int]], rows: Sequence[dict], record: Record,
                 judged: HeldOut):
        self.config, self.folder, self.models, self.record = config, folder, models, record
        self.end_token_ids, self.token_ids, self.rows, self.judged = end_token_ids, token_ids, rows, judged
        self.prompts = PromptStream(token_ids, rows, responses=config.ppo.responses_per_prompt, seed=config.run.seed)
        self.checkpoints = Checkpoints(folder.stage("ppo") / "checkpoints", config, fingerprint(token_ids))
        self.watch = Watch(config, folder)
        self.budget = Budget(config.recovery, time.monotonic, self.record.tell, self.watch.fault)
        self.skip: set[int] = set()  # samples that made bad numbers
        self.ran = False  # whether all roles were ready once
        self.cost: dict[str, float] = {}  # of the last checkpoint; the next step's line tells it

    async def run(self) -> dict[str, int]:
        """Returns how many samples were trained, filtered, and trained in vain.

        Engines, reward and reference replicas are replaced while the rest goes on. Any other process that fails has all roles
        started anew, and the loop goes back to the newest checkpoint.
        """
        watching = asyncio.create_task(self.watch.run())
        try:
            return await self._attempts()
        finally:
            watching.cancel()

    async def _attempts(self) -> dict[str, int]:
        while True:
            try:
                return await self._attempt()
            except BadNumbers as failure:
                self._leave_out(failure)
            except RoleFailed as failure:
                if not self.ran:
                    raise  # what does not start once is not started again
                await asyncio.sleep(self.budget.spend("the run, from its newest checkpoint,", str(failure)))

    def _leave_out(self, failure: BadNumbers) -> None:
        """Keep what made bad numbers, and go back to before it; raises where the run is to stop."""
        kept = ""
        if failure.batch:
            place = self.folder.stage("ppo") / "bad_numbers" / f"samples-{failure.batch[0].sample.index}"
            place.mkdir(parents=True, exist_ok=True)
            LoopState(scored=failure.batch).write(place)
            kept = f" The batch is in {place}."
        if self.config.limits.on_bad_numbers == "stop":
            raise RunError(f"{failure}.{kept} Such numbers come from a learning rate that is too high, a reward without bounds, "
                           "or a broken model; limits.on_bad_numbers: skip goes on without those samples") from failure
        self.skip |= set(failure.indices)
        self.record.tell(f"{failure}.{kept} Its samples are left out")

    async def _attempt(self) -> dict[str, int]:
        roles = Roles(self.config, self.models, self.end_token_ids, self.budget, self.record.tell)
        self.watch.follow(roles)
        try:
            await roles.start(probe=empty_answers(self.token_ids, self.rows, self.end_token_ids), again=self.ran)
            await settle_moments(self.config, self.folder, roles.reward, self.models.policy, self.record.tell)
            self.ran = True
            loop = await self._loop(roles)
            self.watch.follow(roles, loop)
            await loop.run()
            await self.checkpoints.finish()
            await roles.policy.save(str(self.folder.model("ppo")))
            if roles.value is not None:
                await roles.value.save(str(self.folder.model("value")))
            return self.record.account(loop.admission.admitted)
        finally:
            await self.checkpoints.abandon()
            await roles.close()

    async def _loop(self, roles: Roles) -> Loop:
        """At the newest checkpoint that is whole, or at the beginning."""
        path = await asyncio.to_thread(self.checkpoints.newest, self.record.tell)
        start = await self.checkpoints.restore(path, roles, self.prompts) if path else None
        self.record.go_back(start or LoopState())

        async def after(step: Step) -> None:
            step.metrics.update(self.cost)
            self.record.step(step)
            self.watch.step(step)
            self.cost = {}
            self.checkpoints.look()
            if self.checkpoints.due(step.version):
                self.record.sync()  # a checkpoint knows of no sample that the files do not tell of
                self.cost = await self.checkpoints.save(loop.state(), roles, step.metrics["reward/score_mean"])
            if self.config.ppo.export_every and step.version % self.config.ppo.export_every == 0:
                await roles.policy.save(str(self.folder.model(f"ppo-step-{step.version:06d}")))

        evaluations = Evaluations(
            self.config, roles, self.judged.prompts, self.judged.judge, self.record.evaluated, self.record.tell,
            known=self.record.held_out.versions if self.record.held_out else ())
        loop = Loop(self.config, roles, self.prompts, after, start, self.skip, self.record.filter, evaluations)
        loop.parity.probe_with([np.asarray(ids, dtype=np.int32) for ids in self.token_ids])
        return loop


def fingerprint(token_ids: Sequence[Sequence[int]]) -> str:
    """Of the training prompts, in order: a run goes on with those alone that it began with."""
    digest = xxhash.xxh3_64()
    for ids in token_ids:
        digest.update(np.asarray([len(ids), *ids], dtype=np.int32).tobytes())
    return digest.hexdigest()


def empty_answers(token_ids: Sequence[Sequence[int]], rows: Sequence[dict], end_token_ids: Sequence[int]) -> list[Sample]:
    """Two prompts that are answered by the end token alone: what a reward is tried on before the run starts."""
    response = np.asarray(end_token_ids[:1], dtype=np.int32)
    none = np.zeros(len(response), dtype=np.float32)
    prompts = (Prompt(-1 - i, -1, np.asarray(ids, dtype=np.int32), row)
               for i, (ids, row) in enumerate(zip(token_ids[:2], rows, strict=False)))
    return [Sample(prompt, response, none, none.astype(np.int32), ended=True) for prompt in prompts] if len(response) else []


def starting_models(config: RunConfig, folder: RunFolder) -> StartingModels:
    """Where each role starts from. Raises ConfigError: no such model, or a reference with another vocabulary."""
    from scale_rlhf.stages.models import check_same_vocabulary, reward_start, starting_model

    policy = starting_model(config, folder, "policy")
    reference = starting_model(config, folder, "reference")
    if reference != policy:
        check_same_vocabulary(policy, reference)
    value = starting_model(config, folder, "value") if config.ppo.critic else None
    return StartingModels(policy, reference, value, reward_start(config, folder))


def training_prompts(config: RunConfig, folder: RunFolder, tokenizer) -> tuple[list[list[int]], list[dict]]:
    """Prompts as token ids, chat template applied, with their rows; those over the limit as data.long_prompts says."""
    from scale_rlhf.data.chat import prompt_ids
    from scale_rlhf.data.limit import within_limit
    from scale_rlhf.data.sources import sources

    rows = sources(config, folder).training_prompts()
    rows, left_out = within_limit(
        rows, lambda messages: len(prompt_ids(tokenizer, messages)), config.data.max_prompt_tokens, config.data.long_prompts)
    if left_out:
        print(f"ppo: {left_out} prompts over data.max_prompt_tokens are left out, {len(rows)} remain")
    return [list(prompt_ids(tokenizer, row["messages"])) for row in rows], rows


