"""What Ray calls actors: names that are found, in calls and in logs, and that another takes after a death."""

import os
import signal
import time

import psutil
import pytest

from scale_rlhf.cluster import names
from scale_rlhf.cluster.device import environment

OPTIONS = {"num_cpus": 0.1, "max_restarts": 0, "max_task_retries": 0, "runtime_env": {"env_vars": environment(1)}}


class Worker:
    """What a role's process looks like from outside."""

    def __init__(self, number: int):
        self.number = number

    async def answer(self) -> tuple[int, int, str]:
        return self.number, os.getpid(), repr(self)


def started(ray, number: int, namespace: str | None):
    worker = names.start(Worker, "policy/3", number, options=OPTIONS, namespace=namespace)
    return worker, ray.get(worker.answer.remote(), timeout=60)


def test_an_actor_is_found_by_the_name_that_it_shows(cluster):
    from ray.util import list_named_actors

    worker, (_, pid, shown) = started(cluster, 1, "run-a")
    assert shown == "policy/3"
    assert cluster.get(cluster.get_actor("policy/3", namespace="run-a").answer.remote(), timeout=60)[1] == pid
    other, (_, another, _) = started(cluster, 2, "run-b")  # another run on the same cluster
    assert another != pid
    named = [one for one in list_named_actors(all_namespaces=True) if one["name"] == "policy/3"]
    assert sorted(one["namespace"] for one in named) == ["run-a", "run-b"]
    assert psutil.Process(pid).cmdline()[0].startswith("ray::Worker")  # the class, as it was
    for one in (worker, other):
        cluster.kill(one)


@pytest.mark.parametrize("how", ["killed", "ended by Ray"])
def test_who_takes_the_place_of_a_dead_one_takes_its_name(cluster, how):
    worker, (_, pid, _) = started(cluster, 1, f"again-{how}")
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
    else:
        cluster.kill(worker)
    began = time.monotonic()
    another, (number, new, _) = started(cluster, 2, f"again-{how}")
    found = cluster.get_actor("policy/3", namespace=f"again-{how}")
    assert number == 2 and new != pid and time.monotonic() - began < 20
    assert cluster.get(found.answer.remote(), timeout=60)[1] == new
    cluster.kill(another)


def test_without_a_namespace_there_is_no_name_to_be_taken(cluster):
    both = [started(cluster, number, None) for number in (1, 2)]
    assert [answer[2] for _, answer in both] == ["policy/3", "policy/3"]
    with pytest.raises(ValueError, match="Failed to look up actor"):
        cluster.get_actor("policy/3")
    for worker, _ in both:
        cluster.kill(worker)
