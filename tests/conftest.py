"""Every test runs under strict dtype and rank promotion, with warnings as errors."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import pytest
from compiled_programs import OLDER_EMITTERS, compile_quickly, folder, keep_programs, variables
from jax.experimental.compilation_cache import compilation_cache

from eqloop.cli import main

# The gate is the same each time; explore with `--hypothesis-profile=explore`.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("gate")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Where Python may not write bytecode, as in many containers, each process that a test starts would
# compile all of JAX again, which is half of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts background jobs with Ctrl-C ignored, and children inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
keep_programs(folder())
compile_quickly(True)


LONGEST = (
    "test_gradients",
    "test_distributed",
    "test_sweep",
    "test_solvers",
    "test_stability_axes",
    "test_examine",
    "test_resume",
    "test_model",
    "test_audit",
    "test_second_derivatives",
    "test_train",
    "test_cli",
    "test_stability",
    "test_report",
)
"""Files that take longest. One process runs all tests of a file, so that what its tests share is
made once; where these files come first, all processes end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="module", autouse=True)
def programs() -> Iterator[None]:
    """Clear JAX's caches after each test file: every program holds memory mappings, a process may
    have 65,530 of them, and XLA crashes when it gets no more."""
    yield
    jax.clear_caches()


@pytest.fixture
def compiled_fully() -> Iterator[None]:
    """Compile with all optimisations, for laws that must hold of programs as users get them. All
    other tests compile quickly. These are fully compiled: the table of test_gradients, with each
    solver and each gradient once, the memory of solvers and gradients, and the laws of
    test_stability."""
    compile_quickly(False)
    yield
    compile_quickly(True)


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    """Load no program from disk, for tests of what the compiler makes of a program."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX reads this option only once
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def compiled() -> dict[str, str]:
    """Variables for child processes that call `share_programs`."""
    return variables(folder())


@pytest.fixture(scope="session")
def compiled_apart(tmp_path_factory) -> dict[str, str]:
    """Variables for all other child processes, `eqloop` itself among them, to share compiled
    programs."""
    return variables(tmp_path_factory.mktemp("compiled")) | {"XLA_FLAGS": OLDER_EMITTERS}


@pytest.fixture
def x64():
    """Use float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference vectors beside the checkout; skips where it is
    absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip(
            f"{path} is absent: real data and reference vectors are not part of the project"
        )
    return path


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """A data cache for the session: tests neither read nor fill that of the user."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQLOOP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, cache) -> Path:
    """A run folder with two checkpoints, trained for four steps by the command itself. Tests must
    copy it before they change it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {
        "task.length": 8,
        "task.validation_length": 0,  # the same length as the other strings
        "task.hard_length": 8,  # one shape, since each shape is compiled for
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


@pytest.fixture
def cli(capsys):
    """Run a command in this process; return its exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the pages of reports; tests that need it are skipped if it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """Open a file in the browser; after the test, assert that nothing failed and nothing was
    fetched."""
    faults: list[str] = []
    pages = []

    def opened(path: Path, *, width: int = 1200, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))

        def record_request(request):
            if not request.url.startswith(("file:", "data:")):
                faults.append(request.url)

        page.on("request", record_request)
        page.goto(path.as_uri())
        return page

    yield opened
    for page in pages:
        page.close()
    assert not faults
