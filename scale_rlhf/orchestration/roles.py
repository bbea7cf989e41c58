"""The five roles of a PPO run: made from the configuration, started together, ended together."""

import asyncio
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scale_rlhf.cluster.placement import Placement, reserve, wait
from scale_rlhf.config.one_base import policy_serves_reference
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.deadlines import first_failure
from scale_rlhf.orchestration.health import Budget
from scale_rlhf.reference.one_base import PolicyWithoutAdapter
from scale_rlhf.reference.server import ReferenceFleet
from scale_rlhf.reward.interface import RewardFleet
from scale_rlhf.reward.make import make_reward
from scale_rlhf.reward.make import placed as placed_reward
from scale_rlhf.rollout.fleet import RolloutFleet
from scale_rlhf.training.group import PolicyGroup, ValueGroup
from scale_rlhf.weights.choice import one_host, transport
from scale_rlhf.weights.shared_memory import remove_published, remove_published_by_the_dead


@dataclass(frozen=True)
class StartingModels:
    """Folders or hub names that the roles start from. reward: None for a function or a service."""

    policy: str
    reference: str
    value: str | None  # None where there is no critic
    reward: str | None


class Roles:
    """Rollout, reward, reference, policy and value. `start` returns when all are ready; `close` ends every process."""

    def __init__(self, config: RunConfig, models: StartingModels, end_token_ids: Sequence[int], budget: Budget | None = None,
                 show: Callable[[str], None] = lambda lines: None):
        """budget: of restarts of engines, reward and reference replicas; None: a failure of any ends the run. show: takes what
        whoever watches should know of where processes are.
        """
        self.config, self.models, self.end_token_ids, self.budget, self.show = config, models, end_token_ids, budget, show
        self.tag = f"{config.run.name}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.placement: Placement | None = None
        self.ready = False  # all of them
        self._started: list = []

    async def start(self, probe: Sequence[Sample] = (), again: bool = False) -> None:
        """Place every process, start all roles at once. probe: samples that the reward scores, so that a broken one fails now.

        again: they ran before, and nodes that are missing may come back.
        """
        config, models = self.config, self.models
        remove_published_by_the_dead(config.run.name)
        self.placement = placed = await asyncio.to_thread(reserve, config, config.limits.start_seconds if again else 0.0)
        if config.cluster.address:
            self.show(placed.table("what each role asks for"))
        await wait(placed, config)
        self.rollout = RolloutFleet(config, models.policy, self.end_token_ids, self.budget, self.tag)
        self.reward: RewardFleet = make_reward(
            config, model=models.reward, policy=models.policy, budget=self.budget, namespace=self.tag)
        self.policy = PolicyGroup(config, models.policy, self._each("policy", config.policy.workers), self.tag)
        server = None if policy_serves_reference(config) else ReferenceFleet(config, models.reference, self.budget, self.tag)
        self.reference = server or PolicyWithoutAdapter(self.policy)
        self.value = None
        if models.value is not None:
            self.value = ValueGroup(config, models.value, self._each("value", config.value.workers), self.tag)
        self._started = [role for role in (self.rollout, self.reward, server, self.policy, self.value) if role]
        engines = [placed.options("rollout", config.rollout, place, config.rollout.tensor_parallel)
                   for place in range(config.rollout.most)]
        granted = (lambda place: placed.granted("rollout", place)) if config.rollout.elastic else None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.rollout.start(engines, granted))
                tasks.create_task(self.reward.start(placed_reward(placed, config), probe))
                if server is not None:
                    tasks.create_task(server.start(
                        placed.replicas("reference", config.reference, config.reference.replicas, config.reference.workers)))
                tasks.create_task(self.policy.start())
                if self.value is not None:
                    tasks.create_task(self.value.start())
        except ExceptionGroup as failures:
            raise first_failure(failures) from None
        policies, engines = await self.policy.places(), await self.rollout.places()
        chosen = transport(config, policies, engines)
        await self.policy.open_transport(chosen, self.tag, self.rollout.engines, config.rollout.tensor_parallel,
                                         loopback=one_host(policies, engines))
        self.rollout.open_transport(chosen)
        if config.cluster.address:
            self.show(placed.table("where they are"))
        self.ready = True

    def _each(self, role: str, workers: int) -> list[dict]:
        return [self.placement.options(role, getattr(self.config, role), rank) for rank in range(workers)]

    def all(self) -> list:
        """The roles that run, in the order of the data's way."""
        return list(self._started)

    async def close(self) -> None:
        """End every process, whatever state it is in; safe at any time after construction."""
        endings = []
        for role in self._started:
            ending = role.close()
            if asyncio.iscoroutine(ending):
                endings.append(ending)
        await asyncio.gather(*endings, return_exceptions=True)
        self._started, self.ready = [], False
        remove_published(self.tag)  # a rank that was killed could not
        if self.placement is not None:
            self.placement.release()
            self.placement = None
