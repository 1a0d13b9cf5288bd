"""Freed memory stays with the process, by settings of malloc in the GNU C library.

XLA allocates the buffers of a program anew at each call. malloc asks the kernel for blocks of many
megabytes and gives them back when they are freed, so each step of a training pays for the same
pages again (benchmarks/LOG.md, "Page faults").
"""

import ctypes
import os
import platform
import sys

_SETTINGS = {  # variable of the environment: number of the parameter in malloc.h, value
    "MALLOC_ARENA_MAX": (-8, 1),  # other arenas have bounded heaps, and XLA has threads of its own
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
}


def keep_freed_memory() -> None:
    """Let malloc of this process keep what is freed, in blocks up to 2 GiB.

    Peak memory grows by up to a third. Nothing is changed in a process that has already imported
    JAX, or where the C library is another one. A setting that the user has made in the environment
    (`man mallopt`) counts.
    """
    if "jax" in sys.modules or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for variable, (parameter, value) in _SETTINGS.items():
        if variable not in os.environ:
            library.mallopt(parameter, value)
