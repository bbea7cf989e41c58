"""The C library's heap, told to keep what is freed.

A reload frees each layer's packed weights and packs the new ones. By default glibc gives such large blocks back to the
kernel and gets zeroed pages for the next, which takes a fifth of the whole reload.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """For the rest of this process: large blocks come from the heap, and the heap does not shrink. Linux with glibc alone."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 << 20)
