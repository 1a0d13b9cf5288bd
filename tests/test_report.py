"""`eqloop report` on invented runs and sweeps: tables, figures and a page."""

import csv
import html.parser
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_example import (
    GRID,
    a_stability_report,
    an_evaluation,
    cell_name,
    end_cell,
    fail_cell,
    rising,
    write_json,
    write_run,
    write_sweep,
)
from scipy.stats import spearmanr

from eqloop import InputError
from eqloop._schema import from_table
from eqloop.cli import main
from eqloop.report import (
    Table,
    correlation_table,
    correlations,
    counts,
    markdown,
    read_results,
    results_tables,
    short_table,
    write_results,
)
from eqloop.report._escape import latex_text, markdown_text
from eqloop.report._groups import MOST_BESIDE, estimate
from eqloop.report._quantities import QUANTITIES, is_share, number_at
from eqloop.report.figures._results_figures import MOST_LINES, curves_figure
from eqloop.report.figures._side_by_side_figure import side_by_side_figure
from eqloop.report.figures._style import line_style
from eqloop.report.tables._results_tables import all_tables
from eqloop.report.tables._table import latex
from eqloop.stability import StabilityReport

SEEDS = (0, 1, 2)
HARD = (0.5, 0.6, 0.7)
"""Of the seeds of post at the rate that is best on validation."""
ERROR = "the loss became nan at step 3 | 50 % of {a_b} & c"
BANDS = {"0 guesses": rising(0.8), "1 guess": rising(0.4)}
DONE = 9


def a_cell(norm: str, lr: float, seed: int) -> dict[str, object]:
    return {"norm": norm, "lr": lr, "seed": seed}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A sweep of post and pre at two learning rates: post is best on validation at 1e-3 and on test
    at 1e-2, one seed of pre failed, and at 1e-2 pre has one seed and two that have not ended."""
    cells = [a_cell(n, lr, s) for n in ("post", "pre") for lr in (1e-3, 1e-2) for s in SEEDS]
    sweep = tmp_path_factory.mktemp("sweeps") / "small"
    write_sweep(sweep, "small/prefix-sums", ["norm", "lr", "seed"], cells)
    for seed, hard in zip(SEEDS, HARD, strict=True):
        end_cell(
            sweep,
            a_cell("post", 1e-3, seed),
            rho=0.5 + seed,
            test=an_evaluation(rising(0.9)),
            hard=an_evaluation(rising(hard, hard + 0.1), BANDS),
            validation=(0.8, 0.9),
            stability=a_stability_report(-hard, converged=hard),
        )
        end_cell(
            sweep,
            a_cell("post", 1e-2, seed),
            test=an_evaluation(rising(0.99)),
            hard=an_evaluation(rising(0.99)),
            validation=(0.8, 0.85),  # as many puzzles solved, but fewer cells right
        )
    for seed in (0, 1):
        end_cell(
            sweep,
            a_cell("pre", 1e-3, seed),
            test=an_evaluation(rising(0.3)),
            hard=an_evaluation(rising(0.1)),
            validation=(0.9, 0.9),
            stability=a_stability_report(0.1 + seed, converged=0.1 * seed),
        )
    fail_cell(sweep, a_cell("pre", 1e-3, 2), ERROR)
    end_cell(
        sweep,
        a_cell("pre", 1e-2, 0),
        test=an_evaluation(rising(0.2)),
        hard=an_evaluation(rising(0.2)),
        validation=(0.7, 0.9),
    )
    return sweep


@pytest.fixture(scope="module")
def folder(sweep, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "new" / "report"
    write_results(read_results([sweep]), folder)
    return folder


@pytest.fixture
def report(capsys):
    """Run the command and return its exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        code = main(["report", *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# --- numbers


def test_an_interval_is_that_of_student():
    interval = estimate([0.5, 0.6, 0.7, None])
    assert interval.mean == pytest.approx(0.6)
    assert interval.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert interval.count == 3
    assert estimate([0.25]) == estimate([None, 0.25])
    assert (estimate([0.25]).mean, estimate([0.25]).half_width) == (0.25, None)
    assert estimate([]).mean is None


def test_groups_have_means_over_their_seeds(sweep):
    results = read_results([sweep])
    assert list(results.axes) == ["norm", "lr"]
    assert counts(results) == f"{DONE} of 12 runs have finished, 1 failed, 2 have not ended yet."
    rows = results_tables(results)["rows"]
    assert [(row["axes"]["norm"], row["axes"]["lr"]) for row in rows] == [
        ("post", 1e-3),
        ("post", 1e-2),
        ("pre", 1e-3),
        ("pre", 1e-2),
    ]
    post, _, pre, unfinished = rows
    assert (post["runs"], pre["runs"], pre["failed"], unfinished["runs"]) == (3, 2, 1, 1)
    hard = post["splits"]["hard"]
    assert hard["last"]["mean"] == pytest.approx(0.6)
    assert hard["last"]["half_width"] == pytest.approx(0.248414, rel=1e-5)
    assert hard["best"]["mean"] == pytest.approx(0.7)
    assert hard["lost"]["mean"] == pytest.approx(0.1)
    assert unfinished["splits"]["hard"]["last"] == {"mean": 0.2, "half_width": None, "count": 1}
    assert post["flops"]["evaluate"]["mean"] == 5e12
    assert post["rho_w_x"]["mean"] == 1.5


def test_the_learning_rate_is_chosen_on_validation(sweep):
    """Among rates that solve as many puzzles, right cells on validation decide, not the test score;
    a failed run counts as one that solves nothing."""
    chosen = results_tables(read_results([sweep]))["chosen"]
    assert [(row["axes"]["norm"], row["axes"]["lr"]) for row in chosen] == [
        ("post", 1e-3),
        ("pre", 1e-2),
    ]
    pre = results_tables(read_results([sweep]))["rows"][2]
    assert pre["validation"]["mean"] == pytest.approx((0.9 + 0.9 + 0) / 3)
    table = short_table(read_results([sweep]))
    assert table.name == "chosen"
    assert [row[:4] for row in table.rows] == [
        ("post", "0.001", "3", "80.0 ± 0.0"),
        ("pre", "0.01", "1", "70.0 ± –"),
    ]


def test_without_learning_rates_nothing_is_chosen(sweep, tmp_path):
    write_run(tmp_path / "run", test=an_evaluation(rising(0.9)))
    results = read_results([tmp_path / "run"])
    assert results.chosen is None
    assert short_table(results).name == "results"
    assert dict(results.constants)["lr"] == 1e-3


def test_correlation_is_that_of_spearman():
    random = np.random.default_rng(3)
    outcome = random.integers(0, 9, 20) / 9  # the outcome has ties
    values = -outcome + random.normal(0, 0.2, 20)
    gaps = [None if n % 5 == 0 else value for n, value in enumerate(values)]
    rows = correlations(
        {
            "all": values.tolist(),
            "gaps": gaps,
            "alike": [1.0] * 20,
            "few": [1.0, 2.0] + 18 * [None],
        },
        outcome.tolist(),
    )
    complete, with_gaps, alike, few = rows
    assert complete.value == pytest.approx(np.asarray(spearmanr(values, outcome))[0])
    assert -1 <= (complete.low or 0) < (complete.value or 0) < (complete.high or 0) < 0
    known = np.array([gap is not None for gap in gaps])
    assert with_gaps.count == known.sum() == 16
    assert with_gaps.value == pytest.approx(np.asarray(spearmanr(values[known], outcome[known]))[0])
    lines = markdown(correlation_table(rows))
    assert (alike.value, few.count) == (None, 2)
    assert lines[-2:] == ["| alike | 20 | - | all alike |", "| few | 2 | - | too few |"]
    assert re.fullmatch(r"\| all \| 20 \| -0\.\d\d \| -\d\.\d\d to -0\.\d\d \|", lines[2])


def test_correlation_over_runs(sweep):
    rows = {row["name"]: row for row in results_tables(read_results([sweep]))["correlations"]}
    # -0.5, -0.6, -0.7, 0.1, 1.1 beside 0.5, 0.6, 0.7, 0.1, 0.1
    pairs = [-0.5, -0.6, -0.7, 0.1, 1.1], [0.5, 0.6, 0.7, 0.1, 0.1]
    assert rows["Lyapunov exponent"]["value"] == pytest.approx(np.asarray(spearmanr(*pairs))[0])
    assert rows["spectral radius"]["value"] is None  # it has the same value in every report


def test_axes_that_are_alike_are_left_out(tmp_path):
    for seed in SEEDS:
        for norm in ("post", "pre"):
            run = tmp_path / f"{norm}-{seed}"
            write_run(run, norm=norm, seed=seed, test=an_evaluation(rising(0.5)))
    results = read_results(sorted(tmp_path.iterdir()))
    assert list(results.axes) == ["norm"]
    assert [len(group.cells) for group in results.groups] == [3, 3]
    assert dict(results.constants) == {
        "task": "prefix-sums",
        "recall": "internal",
        "residual": "add",
        "lr": 1e-3,
        "solver": "unroll",
        "gradient": "backprop",
    }
    # Each stretch of a resumed run counts, and so does each evaluation (there is one here).
    assert results.cells[0].seconds == {"train": 15.0, "evaluate": 2.5}


def test_runs_that_differ_elsewhere_are_no_seeds_of_one_another(tmp_path):
    for seed, width in enumerate((32, 64)):
        write_run(tmp_path / f"{width}", seed=seed, width=width, test=an_evaluation(rising(0.5)))
    results = read_results(sorted(tmp_path.iterdir()))
    assert list(results.axes) == ["model.width"]
    assert [len(group.cells) for group in results.groups] == [1, 1]


def test_runs_that_differ_in_their_phases_are_no_seeds_of_one_another(tmp_path):
    for seed, name in enumerate(("plain", "phased")):
        write_run(tmp_path / name, seed=seed, test=an_evaluation(rising(float(seed))))
    spec = tmp_path / "phased" / "spec.toml"
    spec.write_text(spec.read_text() + "\n[[phases]]\nuntil = 3\nsolver.steps = 2\n")
    results = read_results([tmp_path / "plain", tmp_path / "phased"])
    assert results.axes == ["phases"]
    text = "[{'until': 3, 'solver': {'steps': 2}}]"
    assert [group.axes["phases"] for group in results.groups] == [None, text]
    assert [group.share("test", "last").mean for group in results.groups] == [0, 1]
    write_results(results, tmp_path / "out")


def test_a_run_from_before_a_field_existed_is_a_seed_of_those_with_its_default(tmp_path):
    for seed, name in enumerate(("older", "newer")):
        write_run(tmp_path / name, seed=seed, test=an_evaluation(rising(0.5)))
    change(tmp_path / "newer/spec.toml", "[train]", "[train]\ncorrection = 0.0")
    (group,) = read_results([tmp_path / "older", tmp_path / "newer"]).groups
    assert len(group.cells) == 2


def test_sweeps_that_differ_elsewhere_are_no_seeds_of_one_another(tmp_path):
    """Runs are no seeds of one group if only one sweep names what differs, or if neither does; the
    same holds of the meaning of a label."""
    for width in (32, 64):
        write_sweep(tmp_path / f"{width}", "small", ["norm", "seed"], cells := [
            {"norm": "mine", "seed": width + seed} for seed in (0, 1)
        ])  # fmt: skip
        for cell in cells:
            evaluation = an_evaluation(rising(0.5))
            end_cell(tmp_path / f"{width}", cell, width=width, test=evaluation)
    results = read_results([tmp_path / "32", tmp_path / "64"])
    assert list(results.axes) == ["model.width"]
    assert [group.axes["model.width"] for group in results.groups] == [32, 64]
    assert [len(group.cells) for group in results.groups] == [2, 2]
    run = write_run(tmp_path / "run", width=128, norm="mine", test=an_evaluation(rising(0.5)))
    results = read_results([tmp_path / "32", run])
    assert [len(group.cells) for group in results.groups] == [2, 1]


def test_a_cell_without_evaluation_or_run_does_not_hide_the_others(sweep, tmp_path):
    copy = tmp_path / "sweep"
    shutil.copytree(sweep, copy)
    for seed, folder in enumerate(("eval", "")):
        shutil.rmtree(copy / "runs" / cell_name(a_cell("post", 1e-3, seed)) / folder)
    results = read_results([copy])
    assert counts(results) == (
        f"{DONE - 1} of 12 runs have finished, 1 failed, 3 have not ended yet."
    )
    group = results.groups[0]
    assert (len(group.cells), group.share("hard", "last").count) == (2, 1)
    write_results(results, tmp_path / "out")


def test_sweeps_and_runs_together(sweep, tmp_path):
    """Axes that one source lacks come from the specs; a source that would otherwise look like
    another becomes an axis."""
    run = write_run(tmp_path / "chess", task="chess", test=an_evaluation(rising(0.5)))
    results = read_results([sweep, run])
    assert list(results.axes) == ["task", "norm", "lr"]
    failed = results.failed[0]
    assert failed.axes["task"] == "prefix-sums"  # all runs of its sweep have this value
    copy = tmp_path / "again"
    shutil.copytree(sweep, copy)
    results = read_results([sweep, copy])
    assert list(results.axes) == ["source", "norm", "lr"]
    assert len(results.groups) == 8


def test_values_of_an_axis_may_be_any_scalars(tmp_path):
    cells = [{"mark": mark, "width": 64, "name": None} for mark in (True, False)]
    sweep = write_sweep(tmp_path / "sweep", "marks", ["mark", "width", "name"], cells)
    for cell in cells:
        end_cell(sweep, cell, test=an_evaluation(rising(0.5)), hard=an_evaluation(rising(0.5)))
    results = read_results([sweep])
    assert [row[0] for row in short_table(results).rows] == ["yes", "no"]
    assert short_table(results).head[:2] == ("mark", "runs")  # there are no seeds to average
    write_results(results, tmp_path / "out")


# --- files


def test_what_is_written(folder, sweep):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(f"results.{kind}" for kind in ("md", "csv", "tex", "json")),
        "report.html",
        *(f"{name}.png" for name in ("accuracy", "rho", "lyapunov", "side-by-side")),
    }
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    paths = write_results(read_results([sweep]), folder)
    assert {path.name for path in paths} == names
    # The files do not depend on the time at which they are written.
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_csv_has_a_line_for_each_cell(folder):
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    first = rows[0]
    assert (first["norm"], first["lr"], first["seed"]) == ("post", "0.001", "0")
    assert float(first["hard_last"]) == 0.5
    assert float(first["hard_best"]) == 0.6
    assert float(first["hard_lost"]) == pytest.approx(0.1)
    assert (first["hard_best_at"], first["hard_iterations"]) == ("32", "64")
    assert float(first["train_flops"]) == 2e12
    assert float(first["lyapunov_exponent"]) == -0.5
    assert first["reachability"] == "reached from its own start"
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["error"] == ERROR
    assert failed["hard_last"] == ""
    assert sum(row["status"] == "unfinished" for row in rows) == 2


def test_markdown(folder):
    text = (folder / "results.md").read_text("utf-8")
    assert "| post | 0.001 | 3 | 90.0 ± 0.0 | 90.0 ± 0.0 | 0.0 ± 0.0 | 60.0 ± 24.8 |" in text
    assert "| pre | 0.001 | 2 (1 failed) |" in text
    assert "the loss became nan at step 3 \\| 50 %" in text
    assert "12,345 | 2×10¹² | 5×10¹² | 2.5 | 10 | 5 | 0.5 |" in text
    # Each is one table, with as many bars in every line.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_bands_have_a_table_where_there_are_several(folder):
    text = (folder / "results.md").read_text("utf-8")
    assert "## By difficulty: hard" in text
    assert "## By difficulty: test" not in text
    assert "| post | 0.001 | 3 | 80.0 ± 0.0 | 40.0 ± 0.0 |" in text
    assert "0 guesses: 100, 1 guess: 100" in text


def test_latex(folder):
    text = (folder / "results.tex").read_text("utf-8")
    assert text.startswith("% Results of ")
    assert r"step 3 \textbar{} 50 \% of \{a\_b\} \& c" in text
    assert r"60.0 $\pm$ 24.8" in text
    assert r"2$\times$10$^{12}$" in text
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 4
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("a_b & 5 % #1 {x} $y$", r"a\_b \& 5 \% \#1 \{x\} \$y\$"),
        (r"C:\runs~1^2", r"C:\textbackslash{}runs\textasciitilde{}1\textasciicircum{}2"),
        ("−1.5×10⁻¹²", r"$-$1.5$\times$10$^{-12}$"),
        ("ρ < 1 – ±", r"$\rho$ \textless{} 1 -- $\pm$"),
    ],
)
def test_latex_prints_every_character(text, tex):
    assert latex_text(text) == tex


def test_latex_takes_no_cell_for_a_length():
    table = Table("t", "T", ("a", "b"), [("[1]", "*"), ("1 [", "x")])
    assert "{}[1] & {}* \\\\\n1 [ & x" in latex(table)


def test_markdown_keeps_to_its_cell():
    assert markdown_text("a | b\n<c>") == "a \\| b &lt;c>"


def test_json_is_what_the_command_prints(report, sweep, tmp_path):
    code, out, err = report(sweep, "--out", tmp_path / "out", "--json")
    assert code == 0
    printed = json.loads(out)
    files = printed.pop("files")
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert all(Path(file).is_file() for file in files)
    assert err.startswith("wrote ")


# --- the command


def test_the_command_prints_the_short_table(report, sweep):
    code, out, err = report(sweep)
    assert code == 0
    assert f"{DONE} of 12 runs have finished, 1 failed, 2 have not ended yet." in out
    assert re.search(r"post +0\.001 +3 +80\.0 ± 0\.0 .* 60\.0 ± 24\.8", out)
    assert f"failed: {cell_name(a_cell('pre', 1e-3, 2))}: {ERROR}" in out
    assert (sweep / "report" / "report.html").is_file()
    assert "report.html" in err


def test_runs_are_reported_beside_one_another(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for norm in ("post", "pre"):
        write_run(tmp_path / norm, norm=norm, hard=an_evaluation(rising(0.5)))
    code, out, _ = report("post", "pre")
    assert code == 0
    assert re.search(r"pre +1 +– +– +– +50\.0 ± –", out)  # this run was never evaluated on test
    assert (tmp_path / "report" / "accuracy.png").is_file()
    assert not (tmp_path / "report" / "rho.png").exists()


def test_without_matplotlib_there_are_tables(report, sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = report(sweep, "--out", tmp_path / "out")
    assert code == 0
    assert "note: page and figures need matplotlib: pip install matplotlib" in err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["results.csv", "results.json", "results.md", "results.tex"]


def test_all_runs_may_have_failed(report, tmp_path):
    cells = [{"norm": norm} for norm in ("pre", "post")]
    sweep = write_sweep(tmp_path / "sweep", "bad", ["norm"], cells)
    for cell in cells:
        fail_cell(sweep, cell, "out of memory")
    code, out, _ = report(sweep)
    assert code == 0
    assert "0 of 2 runs have finished, 2 failed." in out
    assert "not evaluated" in (sweep / "report" / "report.html").read_text("utf-8")


# --- bad input


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


NAME = cell_name(a_cell("post", 1e-3, 0))
STATE, RUN = f"state/{NAME}.json", f"runs/{NAME}"
DAMAGE = {
    "cells cut off": (lambda s: cut(s / "cells.json"), r"cells\.json: damaged, not JSON"),
    "cells of the future": (
        lambda s: change(s / "cells.json", '"format": 1', '"format": 2'),
        r"cells\.json: format 2, where 1 is understood; use the version of eqloop that wrote it",
    ),
    "cells as a list": (
        lambda s: write_json(s / "cells.json", []),
        r"cells\.json: damaged, not a JSON object but a list",
    ),
    "cells without cells": (
        lambda s: write_json(s / "cells.json", {"format": 1, "axes": []}),
        r"cells\.json: damaged \(KeyError\('cells'\)\)",
    ),
    "cells outside": (
        lambda s: change(s / "cells.json", f'"{NAME}"', '"../x"'),
        r"cells\.json: damaged \(ValueError\(\"'\.\./x' is no name of a run\"\)\)",
    ),
    "an axis of lists": (
        lambda s: change(s / "cells.json", '"lr": 0.001', '"lr": [1]'),
        r"cells\.json: damaged \(TypeError\('\[1\] is no value of an axis'\)\)",
    ),
    "state of the future": (
        lambda s: change(s / STATE, '"format": 1', '"format": 3'),
        r"\.json: format 3, where 1 is understood",
    ),
    "state unknown": (
        lambda s: change(s / STATE, '"finished"', '"asleep"'),
        r"\.json: damaged \(ValueError\(\"status 'asleep'\"\)\); delete it",
    ),
    "state in words": (
        lambda s: change(s / STATE, "12345", '"many"'),
        r"\.json: damaged \(TypeError\(\"'many' is not a number\"\)\)",
    ),
    "evaluation cut off": (
        lambda s: cut(s / RUN / "eval" / "hard.json"),
        r"hard\.json: damaged, not JSON .*; measure it again: eqloop eval",
    ),
    "evaluation of nothing": (
        lambda s: change(s / RUN / "eval" / "hard.json", "0.5]", "NaN]"),
        r"hard\.json: damaged \(ValueError\('nan is not finite'\)\)",
    ),
    "evaluation of more": (
        lambda s: change(s / RUN / "eval" / "hard.json", "0.5]", "1.5]"),
        r"hard\.json: damaged \(ValueError\('1\.5 is not a share'\)\)",
    ),
    "evaluation too short": (
        lambda s: change(s / RUN / "eval" / "hard.json", f", {GRID[-1]}]", "]"),
        r"hard\.json: damaged \(ValueError\('as many scores as iterations are needed'\)\)",
    ),
    "best damaged": (
        lambda s: write_json(s / RUN / "checkpoints" / "best.json", {"step": 3}),
        r"best\.json is damaged: delete it, or name a step",
    ),
    "stability of the future": (
        lambda s: change(s / RUN / "stability" / "report.json", '"format": 1', '"format": 9'),
        r"report\.json: format 9, where 1 is understood",
    ),
    "stability without a spectrum": (
        lambda s: change(s / RUN / "stability" / "report.json", '"lyapunov"', '"l"'),
        r"report\.json: damaged .*has no spectrum\.lyapunov.*; measure it again: eqloop stability",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_sweep_is_one_line(case, report, sweep, tmp_path):
    damage, message = DAMAGE[case]
    copy = tmp_path / "sweep"
    shutil.copytree(sweep, copy, ignore=shutil.ignore_patterns("report"))
    damage(copy)
    code, out, err = report(copy)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not (copy / "report").exists()


def test_other_bad_input_is_one_line(report, tmp_path, sweep):
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "run")
    bare = write_run(tmp_path / "bare", test=an_evaluation(rising(0.5)))
    change(bare / "spec.toml", "recall = ", "recal = ")
    future = write_run(tmp_path / "future", test=an_evaluation(rising(0.5)))
    change(future / "spec.toml", "format = 1", "format = 7")
    torn = write_run(tmp_path / "torn", test=an_evaluation(rising(0.5)))
    change(torn / "spec.toml", "[model]", "[model")
    log = write_run(tmp_path / "log", test=an_evaluation(rising(0.5)))
    change(log / "metrics.jsonl", "{", "")
    waiting = write_sweep(tmp_path / "waiting", "w", ["norm"], [{"norm": "pre"}])
    good = write_run(tmp_path / "good", test=an_evaluation(rising(0.5)))
    (tmp_path / "file").write_text("mine")
    cases = {
        (tmp_path / "none",): "none: there is no such folder",
        (tmp_path / "empty",): "empty is neither a run (no spec.toml) nor a sweep (no cells.json)",
        (run,): f"run has no evaluation of test or hard yet: eqloop eval {run}",
        (bare,): "spec.toml does not say model.recall: it is not the spec of a run",
        (future,): "spec.toml: format 7, where 1 is understood",
        (torn,): "spec.toml is not valid TOML",
        (log,): "metrics.jsonl:1: not a line of a log",
        (waiting,): "none of the 1 runs of",
        (good, good): "a folder is given twice",
        (good, "--out", tmp_path / "file"): "file is a file: choose another --out",
        (good, "--out", tmp_path / "file" / "x"): "cannot make the folder",
        (): "Missing argument",
    }
    before = sorted(tmp_path.rglob("*"))
    for args, message in cases.items():
        code, out, err = report(*args)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="name a run folder"):
        read_results([])


# --- figures


def test_many_groups_are_spread_over_panels(tmp_path):
    cells = [
        {"recall": recall, "norm": norm}
        for recall in ("none", "external", "internal", "fixed")
        for norm in ("pre", "peri", "post", "gru")
    ]
    sweep = write_sweep(tmp_path / "sweep", "paper", ["recall", "norm"], cells)
    for cell in cells:
        end_cell(sweep, cell, test=an_evaluation(rising(0.5)), hard=an_evaluation(rising(0.5)))
    figure = curves_figure(read_results([sweep]))
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "none: test",
        "none: hard",
        "external: test",
    ]
    assert all(len(axes.get_lines()) == 4 <= MOST_LINES for axes in figure.axes)
    # There is one legend, in which a norm has the same line style in every panel.
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["iterations in training", "pre", "peri", "post", "gru"]


@pytest.mark.parametrize(("best", "top"), [(0.0, 0.1), (0.2, 0.25), (0.4, 0.5), (0.9, 1.0)])
def test_small_shares_can_be_told_apart(best, top, tmp_path):
    write_run(tmp_path / "a", test=an_evaluation(rising(0.0, best)))
    (panels, *_) = curves_figure(read_results([tmp_path / "a"])).axes
    assert panels.get_ylim() == (0, top)


def test_a_line_is_the_mean_of_its_seeds(sweep):
    figure = curves_figure(read_results([sweep]))
    post = figure.axes[1].get_lines()[0]
    # The learning rate was chosen, so that it does not distinguish groups.
    assert post.get_label() == "post"
    assert list(post.get_xdata()) == GRID  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(np.asarray(post.get_ydata())[-2:], [0.7, 0.6])


def test_the_known_depth_is_drawn_where_there_is_a_law(tmp_path):
    evaluation = an_evaluation(rising(0.5))
    evaluation["overall"]["known_depth"] = 12.5
    write_run(tmp_path / "a", test=an_evaluation(rising(0.5)), hard=evaluation)
    test, hard, *_ = curves_figure(read_results([tmp_path / "a"])).axes
    assert [line.get_label() for line in test.get_lines()] == ["prefix-sums"]
    (depth, _) = hard.get_lines()
    assert depth.get_label() == "known depth"
    np.testing.assert_array_equal(depth.get_xdata(), 12.5)


def test_lines_differ_in_more_than_colour():
    styles = [line_style(number) for number in range(49)]
    assert len({(style["marker"], str(style["linestyle"])) for style in styles}) == 49


# --- side by side


def tables_of(results) -> dict[str, Table]:
    return {table.name: table for table in all_tables(results)}


def test_a_few_groups_have_their_fixed_points_side_by_side(sweep):
    """The table has one column per group; each number is the mean over seeds of the medians."""
    results = read_results([sweep])
    table = tables_of(results)["fixed-points"]
    assert table.head == ("", "post, lr 0.001", "pre, lr 0.001")
    rows = {row[0]: row[1:] for row in table.rows}
    assert set(rows) == {
        *(name for name in QUANTITIES if f"{name}, %" not in rows),
        *(f"{name}, %" for name in QUANTITIES if f"{name}, %" in rows),
        "T2: Harder examples take longer",
    }
    assert rows["converged, %"] == ("60.0 ± 24.8", "5.0 ± 63.5")
    assert rows["Lyapunov exponent"] == ("−0.6 ± 0.248", "0.6 ± 6.35")
    assert rows["T2: Harder examples take longer"] == (
        "undecided (1), passed (2): 0.6",
        "undecided: 0.05",
    )


def test_numbers_of_a_report_are_medians_and_shares():
    report = from_table(StabilityReport, a_stability_report(-0.2, converged=0.75))
    settle = report.reachability.settle_step
    assert number_at(report, QUANTITIES["settle step"]) == settle.median != settle.mean
    assert number_at(report, QUANTITIES["Lyapunov exponent"]) == -0.2
    assert number_at(report, QUANTITIES["converged"]) == 0.75
    distinct = report.input_dependence.distinct
    assert number_at(report, QUANTITIES["distinct fixed points"]) == distinct
    assert number_at(report, "geometry.no.such.number") is None
    shares = [name for name, path in QUANTITIES.items() if is_share(report, path)]
    assert len(shares) == 6
    assert "settle step" not in shares


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report["reachability"]["residual"]["median"].pop(),
        lambda report: report["spectrum"]["eigenvalues"].append([["one"]]),
        lambda report: report["computes"]["t2"].pop("verdict"),
        lambda report: report["geometry"].update(condition="large"),
    ],
)
def test_a_damaged_report_is_one_line(damage, report, tmp_path):
    examined = a_stability_report(-0.1)
    damage(examined)
    run = write_run(tmp_path / "run", test=an_evaluation(rising(0.5)), stability=examined)
    code, out, err = report(run, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "damaged" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_many_groups_have_a_line_each(tmp_path):
    runs = [
        write_run(
            tmp_path / str(n),
            test=an_evaluation(rising(0.5)),
            stability=a_stability_report(-0.1),
            width=n,
        )
        for n in range(8, 8 + MOST_BESIDE + 1)
    ]
    few, many = read_results(runs[1:]), read_results(runs)
    assert len(few.beside) == MOST_BESIDE
    assert not many.beside
    assert len(tables_of(many)["fixed-points"].rows) == MOST_BESIDE + 1
    assert "iterations" in tables_of(few)
    assert "iterations" not in tables_of(many)


def test_solved_over_iterations(sweep):
    """The curves are those at the learning rate that is best on validation."""
    table = tables_of(read_results([sweep]))["iterations"]
    assert table.head == ("run", "split", *map(str, GRID))
    last = {(run, split): row[-1] for run, split, *row in table.rows}
    assert last == {
        ("post, lr 0.001", "test"): "90.0",
        ("post, lr 0.001", "hard"): "60.0",
        ("pre, lr 0.01", "test"): "20.0",
        ("pre, lr 0.01", "hard"): "20.0",
    }


def test_marks_of_groups_differ_in_shape_and_are_in_one_legend(sweep):
    groups = read_results([sweep]).beside
    figure = side_by_side_figure(groups)
    solved, residual, eigenvalues = figure.axes
    lines = [{line.get_label(): line for line in axes.lines} for axes in (solved, residual)]
    names = ["post, lr 0.001", "pre, lr 0.001"]
    for curves in lines:
        assert len({curves[name].get_linestyle() for name in names}) == 2
        assert len({str(curves[name].get_marker()) for name in names}) == 2
    assert [marks.get_label() for marks in eigenvalues.collections] == names
    curve = a_stability_report(0)["reachability"]
    residuals = np.asarray(lines[1]["post, lr 0.001"].get_ydata())
    assert residuals[-1] == curve["residual"]["median"][-1]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*names, "iterations in training"]


# --- the page


class Page(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes, and the tags left open."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(folder):
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    assert not page.open
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri" in text
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    targets = [(attributes["href"] or "") for tag, attributes in page.tags if tag == "a"]
    assert targets
    assert all(target.removeprefix("#") in names for target in targets)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    # Two figures for each of two splits, residual, eigenvalues and the exponent.
    assert len(pictures) == 7
    assert all(len(attributes["alt"] or "") > 40 for attributes in pictures)
    assert "60.0 ± 24.8" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "50 % of {a_b} &amp; c" in text


@pytest.mark.parametrize("width", [360, 1200])
def test_only_tables_scroll(open_page, folder, width):
    page = open_page(folder / "report.html", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    too_wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter("
        "e => !e.closest('table') && e.getBoundingClientRect().right > innerWidth + 0.5"
        ").map(e => e.outerHTML)"
    )
    assert not too_wide
    boxes = page.locator(".scroll")
    assert boxes.count() == 9
    # On a phone the widest table is wider than its box, and scrolls in it by the keyboard.
    if width == 360:
        page.focus("#results .scroll")
        page.keyboard.press("ArrowRight")
        # Do not use wait_for_function: after its first check, the page's own policy forbids its
        # eval.
        for _ in range(100):
            if page.evaluate("document.querySelector('#results .scroll').scrollLeft"):
                break
            page.wait_for_timeout(50)
        else:
            pytest.fail("the arrow key did not move the table within 5 seconds")


def test_dark_mode(open_page, folder):
    page = open_page(folder / "report.html", scheme="dark")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60
