"""Ctrl-C while answers are generated: what waits is cancelled and ended, and nothing is left pending. The fleet is a fake."""

import asyncio
import gc
import os
import signal
import threading

import pytest

from scale_rlhf.cluster.signals import interruptible
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.rollout.answers import Answerer


class Endless:
    """A fleet that never answers, and says how it was left."""

    def __init__(self):
        self.cancelled = 0
        self.closed = False

    async def generate(self, prompt, temperature):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def close(self):
        self.closed = True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_ctrl_c_leaves_no_task_pending(caplog, number):
    fleet = Endless()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    with pytest.raises(KeyboardInterrupt), interruptible(), Answerer(RunConfig()) as answerer:
        answerer.fleet = fleet
        timer.start()
        answerer.answer([[5], [6], [7]], 1.0, 0)
    gc.collect()
    assert fleet.cancelled == 3 and fleet.closed
    assert "pending" not in caplog.text


def test_on_another_host_an_engine_starts_anew_with_each_model(tmp_path, monkeypatch):
    """There it would not see the shared memory that a version is handed over in."""
    started = []
    started_with = lambda answerer, model: started.append(model) or setattr(answerer, "fleet", Endless())  # noqa: E731
    monkeypatch.setattr(Answerer, "_start", started_with)
    monkeypatch.setattr("scale_rlhf.rollout.answers.shapes", lambda model: {})
    monkeypatch.setattr("scale_rlhf.rollout.answers.end_token", lambda model, section: 1)
    with Answerer(RunConfig()) as answerer:
        answerer.beside = False
        answerer.load("one")
        answerer.load("other")
    assert started == ["one", "other"]
