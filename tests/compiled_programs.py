"""How tests compile: quickly, and each program once.

Programs that a test compiles are kept in one folder, from which every process of the tests loads
what another one has compiled; what Numba compiles for the tasks is there too. A loaded program is
the same machine code, so its results are the same to the bit.

The folder is `$EQLOOP_TEST_PROGRAMS`, which outlives the session, or else one of the session alone.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jax
from jax._src import compiler, distributed, lru_cache

VARIABLE = "EQLOOP_TEST_PROGRAMS"
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
QUICKLY = "jax_disable_most_optimizations"
OLDER_EMITTERS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
"""With XLA's older emitters of fused operations a program compiles in half of the CPU time."""


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


def compile_quickly(quickly: bool) -> None:
    """Whether this process, and those that it will start, leave out most of XLA's optimisations:
    where a program runs once, compiling it is most of the work, and they do not pay back."""
    os.environ[QUICKLY.upper()] = str(int(quickly))
    jax.config.update(QUICKLY, quickly)


def choose_emitters() -> None:
    """Use `OLDER_EMITTERS` in this process for what is compiled quickly, and for that alone."""
    if jax.__version_info__ >= (0, 11):  # the newer emitters cannot be chosen for a single program
        return
    get_compile_options = compiler.get_compile_options

    def chosen(*args, **kwargs):
        options = get_compile_options(*args, **kwargs)
        if jax.config.read(QUICKLY):
            options.env_option_overrides += [("xla_cpu_use_fusion_emitters", False)]
        return options

    compiler.get_compile_options = chosen


def keep_programs(path: Path) -> None:
    """Keep the programs of this process in `path`, and what Numba compiles there too."""
    os.environ["NUMBA_CACHE_DIR"] = str(path / "numba")
    share_programs()
    jax.config.update("jax_compilation_cache_dir", str(path))
    for name, value in SETTINGS.items():
        jax.config.update(name, value)


def share_programs() -> None:
    """Compile and write programs as all processes of the tests do that call this."""
    choose_emitters()
    write_whole_programs()


def write_whole_programs() -> None:
    """Write a program to the folder whole or not at all: JAX writes it in place, so that another
    process could read half of it, and a process that is killed would leave half of it for ever.
    Where several processes share a run, JAX lets only the first of them write, so that the others
    compile anew each time; here, all of them write."""
    write, state = compiler._cache_write, distributed.global_state

    def write_as_first(*args):
        number, state.process_id = state.process_id, 0
        try:
            write(*args)
        finally:
            state.process_id = number

    def put(self, key: str, value: bytes) -> None:
        path = Path(self.path) / f"{key}-cache"
        if not path.exists():
            file, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(file, "wb") as stream:
                stream.write(value)
            Path(temporary).replace(path)

    lru_cache.LRUCache.put = put
    compiler._cache_write = write_as_first
