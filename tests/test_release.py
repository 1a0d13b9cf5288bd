"""The trained runs in the repository open, and solve what their README says."""

from pathlib import Path

import pytest

from eqloop._schema import from_table, to_table
from eqloop._tables import parse_json
from eqloop.run import LINES, Best, open_run, read_metrics

RELEASE = Path(__file__).resolve().parents[1] / "benchmarks" / "release"
PUZZLES = {
    "prefix-sums": ["0110100110010110011010011001011001101001100101100110100110010110"],
    "prefix-sums-paper": ["01101001100101101001011001101001"],
    "sudoku": ["53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"],
    "chess": [
        "6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1",
        "r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4",
    ],
}
"""The sudoku is Wikipedia's; the mates are on the back rank and the scholar's."""


def test_each_is_described():
    assert {folder.name for folder in RELEASE.iterdir() if folder.is_dir()} == set(PUZZLES)
    readme = (RELEASE / "README.md").read_text("utf-8")
    for name in PUZZLES:
        assert f"`{name}`" in readme


@pytest.mark.parametrize("name", PUZZLES)
def test_it_solves_without_training(name, cli):
    for puzzle in PUZZLES[name]:
        code, out, err = cli("solve", RELEASE / name, puzzle)
        assert (code, err) == (0, ""), out


@pytest.mark.parametrize("name", PUZZLES)
def test_it_is_small_and_was_chosen_on_validation(name):
    folder = RELEASE / name
    run = open_run(folder)
    assert run.steps() == [run.best()]
    files = [file for file in folder.rglob("*") if file.parent in (folder, folder / "checkpoints")]
    assert sum(file.stat().st_size for file in files if file.is_file()) < 5e6


@pytest.mark.parametrize("name", PUZZLES)
def test_its_log_and_its_best_validation_are_read_as_they_would_be_written(name):
    run = open_run(RELEASE / name)
    rows = read_metrics(run.metrics)
    assert {row["kind"] for row in rows} == {"validation"}
    for row in rows:
        assert list(to_table(from_table(LINES[row["kind"]], row)).items()) == list(row.items())
    table = parse_json((run.path / "checkpoints/best.json").read_bytes())
    assert to_table(from_table(Best, table)) == table
