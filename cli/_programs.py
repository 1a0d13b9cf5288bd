"""Compiled programs are kept between commands, by the persistent compilation cache of JAX.

JAX reads the settings of this cache from the environment when it is imported. Each setting that the
user has not made gets a value here.
"""

import hashlib
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .._files import cache_folder

FOLDER = "JAX_COMPILATION_CACHE_DIR"
SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
LARGEST = 1 << 30
"""Bytes of the folder of programs; what was not used for longest is deleted first."""

_FAILED = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(.*?)'")


def keep_programs() -> None:
    """Keep the programs of this process, and of those that it starts, in `programs/` of the cache.

    Nothing is changed in a process that has already imported JAX, or if the user names a folder by
    `JAX_COMPILATION_CACHE_DIR`. `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
    """
    cache = None if "jax" in sys.modules else cache_folder()
    if cache is None:
        return
    folder = cache.absolute() / "programs" / _processor()
    if os.environ.setdefault(FOLDER, str(folder)) != str(folder):
        return
    os.environ.setdefault(SHORTEST, "0.1")  # by default 1 s, which most of our programs take less
    _shrink(folder, LARGEST)
    warnings.showwarning = partial(_forget, folder, warnings.showwarning)


def _processor() -> str:
    """A hash of what a program depends on and JAX leaves out of its key: the kind of the processor,
    whose instructions the program uses, and the number of cores, among which it divides work."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    kept = ("vendor", "model", "flags", "CPU ", "Features")
    kind = [line for line in lines if line.startswith(kept)] or lines
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    text = "\n".join([platform.machine(), str(cores), *kind])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shrink(folder: Path, largest: int) -> None:
    """Delete the programs that were not used for longest, until `largest` bytes are left.

    The bound of JAX itself (`jax_compilation_cache_max_size`) is not used: after a process is
    killed between the two files that it writes for a program, nothing is cached any more.
    """
    files = []
    for path in folder.glob("*-cache"):
        try:
            status = path.stat()
        except OSError:  # another process has deleted it
            continue
        files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= largest:
            return
        _delete(path)
        total -= size


def _forget(
    folder: Path,
    show: Callable[..., Any],
    message: Warning | str,
    *where: Any,
    **options: Any,
) -> None:
    """Show a warning, but for one that JAX could not read or write a program.

    JAX then compiles the program, so that nothing is lost. It would leave a damaged file where it
    is, for instance of a process that was killed: the file is deleted, and the next process writes
    a new one.
    """
    if (failed := _FAILED.match(str(message))) is None:
        show(message, *where, **options)
        return
    for path in folder.glob("*-cache"):
        if path.name.startswith(f"{failed[1]}-"):
            _delete(path)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that cannot be written is a cache that does not grow
        return
