"""A run is asked to end once, however often the signal comes."""

import os
import signal
import time

import pytest

from scale_rlhf.cluster.signals import interruptible


def test_sigterm_that_comes_twice_is_one_interrupt():
    """As Ray's job server sends it: to the run, and to its supervisor, which hands it on."""
    before = signal.getsignal(signal.SIGTERM)
    ended = False
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # the clean-up
        ended = True
    assert ended and signal.getsignal(signal.SIGTERM) == before
