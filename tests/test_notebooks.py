"""The notebooks run as scripts in an empty folder, and show what their text says.

What a notebook computes are its global names; a test asserts on those that its text draws on.
"""

import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest

from eqloop.tasks import TASKS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = ("any_map", "own_task", "train_and_watch", "unrolled_and_implicit")


@pytest.fixture
def run_notebook(tmp_path, monkeypatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Run a notebook in an empty folder; return its global names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TASKS, "registered", {})  # removed after the test
    matplotlib.use("Agg")
    yield lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))
    plt.close("all")


def test_these_are_all():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_begins_with_a_title_and_an_installation(name):
    """The first cell of code is a magic of pip, which a script has as a comment, and which the site
    shows and does not execute."""
    text = (FOLDER / f"{name}.py").read_text("utf-8")
    assert re.match(r"# %% \[markdown\]\n# # \w", text)
    first = re.findall(r"^# %%(?! \[markdown\])(.*?)\n\n", text, re.DOTALL | re.MULTILINE)[0]
    tags, install, published = first.splitlines()
    assert tags.strip() == 'tags=["skip-execution"]'
    assert re.fullmatch(r'# %pip install "\.\./\.\.\[plot\]"( "flax>=0\.12")?', install)
    # A kernel runs in the folder of its notebook.
    assert (FOLDER / "../../pyproject.toml").is_file()
    assert published == "# Once the package is published: " + install.removeprefix("# ").replace(
        "../..", "eqloop"
    )


@pytest.mark.slow
def test_train_and_watch(run_notebook):
    """Training lowers the loss and solves strings of its length, and no string of 40 bits is solved
    before its information can have crossed it. How many are solved in the end differs by processor.
    """
    names = run_notebook("train_and_watch")
    test, hard = names["curves"].values()
    assert (names["outcome"].status, names["steps"][-1]["step"]) == ("finished", 240)
    assert names["steps"][-1]["loss"] < 0.5 * names["steps"][0]["loss"]
    assert test[-1] >= 0.5
    assert hard[names["result"].iterations.index(8)] < 0.1  # 40 bits need 20 iterations


@pytest.mark.slow
def test_any_map(run_notebook):
    """The same calls serve a function, a module of Equinox and one of Flax NNX."""
    pytest.importorskip("flax", reason="flax is not installed: it is in the group of dev")
    names = run_notebook("any_map")
    converged = {key: not end.residual > 1e-5 for key, end in names["ends"].items()}
    assert all(converged[0.8, solver] for solver in names["solvers"])
    assert not converged[1.2, "plain iteration"]
    assert converged[1.2, "Newton-Krylov"]
    assert float(names["by_gradient"]) == pytest.approx(float(names["by_difference"]), rel=1e-2)
    for kind in ("cell_ends", "block_ends"):
        assert names[kind].residual.max() <= 1e-6, kind
    verdicts = {
        name: report.verdict["reachability"].verdict for name, report in names["reports"].items()
    }
    assert verdicts.pop("strength 1.2") != "reached from every start"
    assert set(verdicts.values()) == {"reached from every start"}, verdicts


@pytest.mark.slow
def test_unrolled_and_implicit(run_notebook):
    """Both gradients become the same vector; one of them in constant memory."""
    names = run_notebook("unrolled_and_implicit")
    cosines, memory, _ = zip(*names["unrolled"], strict=True)
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[0] < 0.7
    assert cosines[-1] > 0.999
    assert names["implicit"][-1][0] > 0.999
    assert memory[-1] > 4 * memory[1]  # 128 iterations against 8
    assert memory[-1] > 2 * names["implicit"][-1][1]
    assert names["report"].fallback.max() == 0
    assert names["failures"]["stopped after 3 steps"].untrusted.min() == 1
    assert names["failures"]["two products"].missed.min() == 1


@pytest.mark.slow
def test_own_task(run_notebook):
    """The class of a notebook is trained on, measured and reported."""
    names = run_notebook("own_task")
    results = names["results"]
    assert results["test"].overall.last >= 0.7
    assert results["hard"].overall.last >= 0.5
    assert set(results["hard"].bands) == {"chains below 8", "chains from 8"}
    written = {path.name for path in names["files"]}
    assert {"report.html", "results.md", "accuracy.png"} <= written
    assert all(path.stat().st_size > 0 for path in names["files"])
