"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the kernel.

    Otherwise glibc returns tensors of some megabytes at once, and the kernel clears the same pages again in every step
    of training or of an attack, which costs a tenth of the time of an attack on a CPU. Only glibc on Linux needs this;
    elsewhere the call does nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the maximum that some versions accept
