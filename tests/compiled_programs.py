"""Programs that a test compiles are kept in one folder, from which every process of the tests loads
what another one has compiled. A loaded program is the same machine code, so its results are the
same to the bit.

The folder is `$EQLOOP_TEST_PROGRAMS`, which outlives the session, or else one of the session alone.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jax
from jax._src import lru_cache

VARIABLE = "EQLOOP_TEST_PROGRAMS"
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def folder() -> Path:
    """The folder of programs; the first process of a session makes it where none is named."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="eqloop-programs-")
        atexit.register(shutil.rmtree, os.environ[VARIABLE], ignore_errors=True)
    return Path(os.environ[VARIABLE])


def variables(path: Path) -> dict[str, str]:
    """Environment variables by which a child process keeps its programs in `path`."""
    settings = {"jax_compilation_cache_dir": path} | SETTINGS
    return {name.upper(): str(value) for name, value in settings.items()}


def keep_programs(path: Path) -> None:
    """Keep the programs of this process in `path`."""
    write_whole_programs()
    jax.config.update("jax_compilation_cache_dir", str(path))
    for name, value in SETTINGS.items():
        jax.config.update(name, value)


def write_whole_programs() -> None:
    """Write a program to the folder whole or not at all: JAX writes it in place, so that another
    process could read half of it, and a process that is killed would leave half of it for ever."""

    def put(self, key: str, value: bytes) -> None:
        path = Path(self.path) / f"{key}-cache"
        if not path.exists():
            file, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(file, "wb") as stream:
                stream.write(value)
            Path(temporary).replace(path)

    lru_cache.LRUCache.put = put
