"""What the C library does with memory that is freed. Imports nothing, so that it can be told before anything else."""

import contextlib
import ctypes
import sys

_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -4, -1, -8  # of glibc's malloc.h


def keep_freed() -> None:
    """Has glibc keep large blocks that are freed, in one arena for all threads.

    A training step frees its work space and asks for it again: having the pages of a new one made and zeroed takes a
    tenth of a step, and a quarter on JAX. Threads that exist already stay in arenas of their own, which give freed
    memory back all the same: call it before a backend is imported. Other C libraries have no such settings.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
            mallopt(option, value)
