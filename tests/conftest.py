"""Every test runs under strict dtype and rank promotion, with warnings as errors."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from eqloop.cli import main

# The gate is the same each time; explore with `--hypothesis-profile=explore`.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("gate")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def programs() -> Iterator[None]:
    """Let go of what a file of tests compiled: each program holds memory mappings, of which a
    process may have 65,530, and XLA crashes where it gets no more."""
    yield
    jax.clear_caches()


@pytest.fixture
def kept_programs(tmp_path_factory) -> Iterator[None]:
    """For a test that trains several times: what one run compiled, the next one takes from disk."""
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    compilation_cache.reset_cache()  # JAX looks for the folder only once
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> dict[str, str]:
    """Variables for child processes to share what they compile, or it would be all they do."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture
def x64():
    """float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference vectors that lies beside a checkout, where it does."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip(
            f"{path} is absent: real data and reference vectors are not part of the project"
        )
    return path


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """A cache of its own for the whole session: tests neither read nor fill that of the user."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQLOOP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, cache) -> Path:
    """A run folder with two checkpoints, trained for four steps by the command itself; not to be
    changed: copy it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {
        "task.length": 8,
        "task.validation_length": 0,  # as long as the others
        "task.hard_length": 8,  # one shape: each one more is compiled for
        "task.rows": 60,
        "task.test_rows": 16,
        "model.width": 16,
        "model.heads": 2,
        "solver.steps": 4,
        "train.burn_in": 0,
        "train.batch": 8,
        "train.checkpoint_every": 2,
        "train.validate_every": 4,
        "train.validation_iterations": 4,
    }
    options = [f"--set={name}={value}" for name, value in settings.items()]
    assert main(["train", "--out", str(run), "--steps", "4", *options]) == 0
    return run
