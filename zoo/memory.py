"""What the C library does with memory that is freed. Imports nothing, so that it can be told before anything else."""

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -3, -4, -1, -8  # of glibc's malloc.h


def keep_freed(backend: str) -> None:
    """Has glibc keep blocks that are freed, in one arena for all threads.

    A training step frees its work space and asks for it again: having the pages of a new one made and zeroed takes a
    tenth of a step, and a quarter on JAX, whose work space is one block. The others ask for many; blocks above 32 MB
    still go back, for PyTorch's fit no hole but their own: kept, they made ten gigabytes of one.
    Threads that exist already stay in arenas of their own, which give freed memory back all the same: call it before
    the backend is imported. Other C libraries have no such settings.
    """
    if sys.platform != "linux":
        return
    large = (_M_MMAP_MAX, 0) if backend == "jax" else (_M_MMAP_THRESHOLD, 32 * 2**20)
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (large, (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
            mallopt(option, value)
