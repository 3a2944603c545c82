"""How freed memory is kept."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_memory() -> None:
    """Let the C library keep what is freed, instead of giving it back to the kernel.

    Otherwise glibc returns tensors of some megabytes at once, and every step of training or of an attack has the kernel
    clear the same pages again: a tenth of the time of an attack on a CPU. Only glibc on Linux needs this, and the call
    does nothing elsewhere.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that some versions take
