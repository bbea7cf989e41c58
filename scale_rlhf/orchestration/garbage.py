"""Garbage collection in the controller: when it costs nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Every sample in flight is tasks and futures that a collection looks at in vain: with thousands of engines that is most
    of the controller's work at Python's own threshold. So it is done once a step (`_report`), when a batch has just gone, and
    what was there before the loop, which is all that was imported, is not looked at again.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
