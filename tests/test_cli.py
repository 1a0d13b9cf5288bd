"""The commands, run as a user runs them: what they print, write and return."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import eqloop
from eqloop._schema import to_table
from eqloop.cli.solve import sample_changes
from eqloop.cli.train import suggestions
from eqloop.run import make_next_folder, open_run, read_cost, read_evaluation, read_run
from eqloop.tasks import TASKS
from eqloop.tasks.prefix_sums import PrefixSums

COMMANDS = (
    ["train"],
    ["eval"],
    ["gradients"],
    ["solve"],
    ["stability"],
    ["sweep"],
    ["report"],
    ["import"],
    ["data"],
    ["data", "make"],
    ["data", "check"],
    ["data", "show"],
)
SUDOKU = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
MATE_IN_1 = "6k1/5ppp/8/8/8/8/5PPP/4R1K1 w - - 0 1"


# --- help


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command, cli):
    """The help of each command says what it reads and writes, and has an example."""
    code, out, err = cli(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage: eqloop" in out
    if command != ["data"]:
        for word in (" reads ", " writes ", "Example: eqloop", "--json"):
            assert word in " ".join(out.split()).replace("Reads", "reads").replace(
                "Writes", "writes"
            )


def test_no_arguments_is_help(cli):
    code, out, _ = cli()
    assert code == 0
    assert "train" in out


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0
    assert out.startswith("eqloop 0.")


def test_what_training_suggests_can_be_pasted(tiny_run, cli, monkeypatch):
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # as `uv run` sets it
    assert suggestions(tiny_run, "", "")[1].startswith("  uv run eqloop plot ")
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    lines = suggestions(tiny_run, "01101001", "")
    commands = [shlex.split(line, comments=True) for line in lines[1:]]
    assert [command[1] for command in commands] == ["plot", "solve", "eval"]
    for command in commands[:2]:
        assert cli(*command[1:])[0] in (0, 1)  # 1: the puzzle is not solved
    assert len(suggestions(tiny_run, "0" * 1000, "")) == len(lines) - 1


def test_a_dry_run_of_training_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("--set", "model.width=16", "--set", "model.heads=2", "--steps", "3")
    code, out, err = cli("train", "--dry-run", *small)
    assert (code, err) == (0, "")
    assert "width = 16\n" in out
    assert out.endswith("nothing was written\n")
    code, out, _ = cli("train", "--dry-run", "--json", *small)
    plan = json.loads(out)
    assert code == 0
    assert plan["spec"]["train"]["steps"] == 3
    assert plan["seconds"] == pytest.approx(plan["flops"] / plan["flops_per_s"])
    assert list(tmp_path.iterdir()) == []
    code, _, err = cli("train", "--dry-run", "--set", "train.batch=2147483647")
    assert code == 2
    assert "training needs at least" in err
    assert "leave out --dry-run" in cli("train", "--resume", tmp_path, "--dry-run")[2]


def test_help_does_not_import_jax():
    """Importing JAX takes a second; the imports that help needs take a fifth of one."""
    program = (
        "import sys; from eqloop.cli import main; code = main(['train', '--help'])\n"
        "heavy = {'jax', 'numpy', 'equinox', 'rich', 'numba', 'chess'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert completed.stdout.splitlines()[-1] == "0 []"


def test_a_mistyped_field_is_told_of_before_jax_is_imported(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text('set = { "train.stepz" = 4 }\n[axes]\nseed = [0, 1]\n')
    program = (
        "import sys; from eqloop.cli import main\n"
        "codes = [main(['train', '--set', f]) for f in ('model.widht=3', 'train.lr=x')]\n"
        f"codes += [main(['train', '--set', 'phases.1.x=3']), main(['sweep', {str(grid)!r}])]\n"
        "assert codes == [2] * 4, codes\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "did you mean model.width?" in done.stderr
    assert "did you mean train.steps?" in done.stderr


# --- data


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst"])
def test_data_make_check_show(task, suffix, cli, tmp_path):
    path = tmp_path / f"set{suffix}"
    code, out, err = cli("data", "make", "--task", task, "--rows", 12, "--out", path)
    assert (code, err) == (0, "")
    assert "12 rows" in out
    code, out, _ = cli("data", "check", path, "--task", task, "--json")
    checked = json.loads(out)
    assert code == 0
    assert (checked["good"], checked["bad"], checked["first"]) == (12, 0, [])
    code, out, _ = cli("data", "show", path, "--task", task, "--index", 11)
    assert code == 0
    assert "answer:" in out
    assert "[/" not in out, "markup of a board that was printed as text"
    code, out, _ = cli("data", "show", path, "--task", task, "--index", 11, "--json")
    assert json.loads(out)["puzzle"]


def test_data_make_is_a_function_of_the_seed(cli, tmp_path):
    def make(name: str, seed: int) -> bytes:
        path = tmp_path / name
        args = ("--task", "sudoku", "--rows", 5, "--seed", seed, "--set", "task.givens=40")
        assert cli("data", "make", *args, "--out", path)[0] == 0
        return path.read_bytes()

    first = make("a.csv.gz", 1)
    assert make("b.csv.gz", 1) == first
    assert make("c.csv.gz", 2) != first


def test_data_make_replaces_only_when_told(cli, tmp_path):
    path = tmp_path / "set.csv"
    make = ("data", "make", "--task", "prefix-sums", "--rows", 3, "--out", path)
    path.write_text("mine")
    assert cli(*make)[0] == 2
    assert path.read_text() == "mine"
    assert cli(*make, "--force")[0] == 0
    assert path.read_text().startswith("question,answer\n")


def test_data_check_counts_bad_rows(cli, tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("question\n" + "010101\n" * 3 + "0101\n" * 12)
    code, out, err = cli("data", "check", path, "--task", "prefix-sums")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert sum(line.startswith(f"{path}:") for line in lines) == 10 + 1
    assert lines[0].startswith(f"{path}:5: ")
    assert "... and 2 more" in lines
    assert f"{path}: 3 rows are good, 12 are bad" in lines
    code, out, _ = cli("data", "check", path, "--task", "prefix-sums", "--json")
    checked = json.loads(out)
    assert (code, checked["rows"], checked["bad"], len(checked["first"])) == (1, 15, 12, 10)


def test_data_show_generates_without_a_file(cli):
    code, out, err = cli("data", "show", "--task", "prefix-sums", "--index", 10_000)
    assert (code, out) == (2, "")
    assert err.startswith("error: --index 10000: without FILE, all up to that one are generated")
    code, out, _ = cli("data", "show", "--task", "sudoku", "--set", "task.box=2", "--index", 2)
    assert code == 0
    assert "difficulty" in out


# --- train


def test_train_leaves_a_whole_run(tiny_run):
    names = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert names == {
        "spec.toml",
        "data.json",
        "metrics.jsonl",
        "checkpoints/best.json",
        "checkpoints/step-00000002.safetensors",
        "checkpoints/step-00000004.safetensors",
        "eval/test.json",
        "eval/hard.json",
    }


def test_train_json_and_shortcuts(cli, tmp_path):
    """Every option ends up in the stored spec; --json prints one object."""
    import tomllib

    options = ["--norm=pre", "--recall=external", "--solver=fixed-point", "--gradient=one-step"]
    options += ["--seed=3", "--steps=1"]
    small = [
        "task.length=8",
        "task.validation_length=0",
        "task.hard_length=8",
        "task.rows=40",
        "task.test_rows=8",
    ]
    small += ["model.width=8", "model.heads=2"]
    small += ["train.batch=4", "solver.max_steps=4", "train.validation_iterations=2"]
    out = tmp_path / "run"
    code, printed, _ = cli(
        "train", "--out", out, *options, *(f"--set={s}" for s in small), "--json"
    )
    assert code == 0
    assert json.loads(printed)["steps"] == 1
    spec = tomllib.loads((out / "spec.toml").read_text())
    assert spec["model"]["norm"] == "pre"
    assert spec["model"]["recall"] == "external"
    assert (spec["solver"]["name"], spec["solver"]["gradient"]) == ("fixed-point", "one-step")
    assert (spec["train"]["seed"], spec["train"]["steps"]) == (3, 1)


def test_resuming_a_finished_run_changes_nothing(cli, tiny_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    before = (run / "checkpoints" / "step-00000004.safetensors").read_bytes()
    code, out, _ = cli("train", "--resume", run)
    assert code == 0
    assert "iterations" in out
    assert (run / "checkpoints" / "step-00000004.safetensors").read_bytes() == before


def test_default_run_folders_are_numbered(tmp_path):
    (tmp_path / "chess-003").mkdir()
    folders = [make_next_folder(tmp_path, "chess") for _ in range(3)]
    assert folders == [tmp_path / f"chess-{number}" for number in ("001", "002", "004")]
    assert all(path.is_dir() for path in folders), "so that nobody else takes them"


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, compiled_apart):
    run = tmp_path / "run"
    small = [
        "task.length=8",
        "task.rows=60",
        "task.test_rows=16",
        "model.width=8",
    ]
    small += ["model.heads=2", "train.batch=8", "train.validate_every=1000000", "train.log_every=1"]
    command = [sys.executable, "-m", "eqloop.cli", "train", "--out", str(run), "--steps", "1000000"]
    process = subprocess.Popen(
        command + [f"--set={setting}" for setting in small],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | compiled_apart | {"JAX_PLATFORMS": "cpu"},
    )
    log = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert f"--resume {run}" in " ".join(err.split())
    assert list((run / "checkpoints").glob("step-*.safetensors"))


# --- eval


def test_eval(cli, tiny_run, tmp_path):
    run, picture = tmp_path / "run", tmp_path / "accuracy.png"
    shutil.copytree(tiny_run, run)
    code, out, err = cli("eval", run, "--iterations", 6, "--rows", 10, "--plot", picture)
    assert (code, err) == (0, "")
    first = out.splitlines()[0]
    assert first.startswith("evaluating validation (")
    assert first.endswith("at most 6 iterations, at most 10 examples of each")
    assert "validation (8 bits): 10 examples" in out
    assert "a sample of 16: between " in out
    assert "overthinking" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    stored = json.loads((run / "eval" / "hard.json").read_text())
    assert stored["iterations"] == [1, 2, 3, 4, 6]
    assert stored["trained_iterations"] == [1, 4]
    assert (stored["rows"], stored["rows_of_split"]) == (10, 16)


def test_eval_takes_a_sample_where_all_is_too_much(cli, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    monkeypatch.setattr("eqloop.cli._run.WORK", 1.0)
    code, out, _ = cli("eval", run, "--iterations", 4, "--split", "train")
    assert code == 0
    assert "a random sample of each" in out.splitlines()[0]
    assert "train (8 bits): 16 examples" in out
    assert json.loads((run / "eval" / "train.json").read_text())["rows"] == 16


def test_eval_json_of_one_split_and_step(cli, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    args = ("--split", "test", "--iterations", 3, "--checkpoint", 2, "--json")
    code, out, _ = cli("eval", run, *args)
    table = json.loads(out)
    assert code == 0
    assert (table["step"], list(table["splits"])) == (2, ["test"])
    assert len(table["splits"]["test"]["overall"]["scores"]["exact"]) == 3
    assert len(table["splits"]["test"]["settled"]) == 16


def test_eval_of_another_file(cli, tiny_run, tmp_path):
    """All rows of the file are evaluated, whatever their length; bad rows are refused, or counted
    with --skip-bad."""
    run, path = tmp_path / "run", tmp_path / "mine.csv"
    shutil.copytree(tiny_run, run)
    path.write_text("question\n" + "0101010101\n" * 5)
    code, out, _ = cli("eval", run, "--data", path, "--iterations", 2)
    assert code == 0
    assert "mine (10 bits): 5 examples" in out
    path.write_text("question\n" + "0101010101\n" * 5 + "01\n")
    code, _, err = cli("eval", run, "--data", path, "--iterations", 2)
    assert code == 2
    assert "--skip-bad" in err
    code, out, err = cli("eval", run, "--data", path, "--iterations", 2, "--skip-bad")
    assert code == 0
    assert "1 bad rows" in err


def files_of(run):
    return {path.name: path.read_bytes() for path in (run / "eval").iterdir()}


@pytest.mark.parametrize("cost", [False, True])
@pytest.mark.parametrize("name", ["test", "hard", "test-cost"])
def test_a_file_replaces_no_result_of_the_run(name, cost, cli, tiny_run, tmp_path):
    """Whatever the name of the file, its examples are not those that `eqloop report` reads."""
    run, path = tmp_path / "run", tmp_path / f"{name}.csv"
    shutil.copytree(tiny_run, run)
    path.write_text("question\n" + "01010101\n" * 5)
    limit = ("--budget", 4) if cost else ("--iterations", 4)
    assert cli("eval", run, *limit, "--split", "test")[0] == 0
    before, results = files_of(run), to_table(read_run(run))
    code, out, _ = cli("eval", run, "--data", path, *limit, "--json")
    assert (code, list(json.loads(out)["splits"])) == (0, [name])
    (new,) = files_of(run).keys() - before.keys()
    assert files_of(run) | before == files_of(run), "nothing else has changed"
    assert to_table(read_run(run)) == results
    stem = new.removesuffix(".json").removesuffix("-cost" if cost else "")
    record = read_cost(run, stem) if cost else read_evaluation(run, stem)
    assert record is not None
    assert (record.sample.name, record.sample.split, record.sample.rows) == (stem, name, 5)
    assert record.sample.source is not None
    assert record.sample.source.path == str(path)
    assert record.sample.source.sha256.startswith(stem.removeprefix(f"{name}."))


def test_a_split_of_a_file_is_of_the_run_only_if_it_has_the_same_examples(cli, tiny_run, tmp_path):
    run, path = tmp_path / "run", tmp_path / "mine.csv"
    shutil.copytree(tiny_run, run)
    make = ("data", "make", "--task", "prefix-sums", "--set", "task.length=8", "--rows", 40)
    assert cli(*make, "--out", path)[0] == 0
    before = files_of(run)
    args = ("eval", run, "--data", path, "--split", "test", "--iterations", 4)
    assert cli(*args)[0] == 0
    (new,) = files_of(run).keys() - before.keys()
    assert files_of(run) == before | {new: (run / "eval" / new).read_bytes()}
    # The file as the data of the run, at another place than when it was trained.
    _, task, _ = eqloop.load(run)
    moved = dataclasses.replace(task, data=str(path)).load().manifest
    (run / "data.json").write_text(json.dumps({**open_run(run).manifest, **moved}))
    assert cli(*args)[0] == 0
    assert files_of(run).keys() == {*before, new}
    record = read_evaluation(run, "test")
    assert record is not None
    assert (record.sample.source, record.evaluation.iterations[-1]) == (None, 4)


def test_the_result_of_a_file_is_not_taken_for_that_of_a_split(cli, tiny_run, tmp_path):
    run, path = tmp_path / "run", tmp_path / "test.csv"
    shutil.copytree(tiny_run, run)
    path.write_text("question\n" + "01010101\n" * 5)
    for limit, end in (("--iterations", ""), ("--budget", "-cost")):
        assert cli("eval", run, "--data", path, limit, 4)[0] == 0
        (made,) = (run / "eval").glob(f"test.*{end}.json")
        made.replace(run / "eval" / f"test{end}.json")
    for read in (read_run, lambda run: read_cost(run, "test")):
        with pytest.raises(eqloop.InputError, match=r"it is of 'test\.[0-9a-f]{8}'.*measure it"):
            read(run)


@pytest.mark.parametrize("limit", ["--iterations", "--budget"])
def test_a_file_without_answers_is_solved_and_not_scored(
    limit, cli, tiny_run, tmp_path, monkeypatch
):
    def unanswered(read):
        def replaced(self, *args, **kwargs):
            split = read(self, *args, **kwargs)
            return dataclasses.replace(split, columns={"answered": np.arange(len(split)) > 0})

        return replaced

    for name in ("read", "parse"):
        monkeypatch.setattr(PrefixSums, name, unanswered(getattr(PrefixSums, name)))
    run, path = tmp_path / "run", tmp_path / "mine.csv"
    shutil.copytree(tiny_run, run)
    path.write_text("question\n" + "01010101\n" * 5)
    before = files_of(run)
    code, out, err = cli("eval", run, "--data", path, limit, 4)
    assert (code, out) == (2, "")
    why = f"{path}: 1 rows have no answer, so they cannot be scored; add a column answer\n"
    assert err == f"error: {why}"
    assert files_of(run) == before
    assert cli("solve", run, "01010101", limit, 4)[0] in (0, 1)


# --- solve


def test_solve(cli, tiny_run):
    code, out, err = cli("solve", tiny_run, "0110100110010110", "--iterations", 20)
    assert err == ""
    assert code in (0, 1)
    assert "iteration 1, residual" in out
    assert ("right: all 16" if code == 0 else "wrong: ") in out
    code_json, out, _ = cli("solve", tiny_run, "0110100110010110", "--iterations", 20, "--json")
    table = json.loads(out)
    assert code_json == code
    assert table["solved"] is (code == 0)
    assert len(table["answer"]) == 16
    assert len(table["residuals"]) == table["iterations"] <= 20
    assert table["changes"][0] == 1


def test_eval_of_the_cost(cli, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    args = ("eval", run, "--split", "test", "--budget", 12, "--restarts", 2, "--select", "vote")
    code, out, err = cli(*args)
    assert (code, err) == (0, "")
    assert "per solved" in out
    stored = json.loads((run / "eval" / "test-cost.json").read_text())
    options = {"budget": 12, "restarts": 2, "select": "vote", "solver": "fixed-point", "rows": 16}
    assert stored.items() >= options.items()
    record = read_cost(run, "test")
    assert record is not None
    assert to_table(record) == {name: part for name, part in stored.items() if name != "crc32"}
    code, out, _ = cli(*args, "--solver", "anderson", "--rows", 5, "--json")
    table = json.loads(out)["splits"]["test"]
    assert code == 0
    assert table["overall"]["examples"] == len(table["evaluations"]) == 5
    assert max(map(max, table["evaluations"])) <= 12


def test_solve_within_a_budget(cli, tiny_run):
    args = ("solve", tiny_run, "0110100110010110", "--budget", 20, "--restarts", 3)
    code, out, err = cli(*args, "--select", "vote")
    assert err == ""
    assert "answer of start" in out
    assert ("right: all 16" if code == 0 else "wrong: ") in out
    code_json, out, _ = cli(*args, "--select", "vote", "--json")
    table = json.loads(out)
    assert code_json == code == (not table["solved"])
    assert len(table["residuals"]) == len(table["votes"]) == 3
    assert table["votes"][table["chosen"]] == max(table["votes"])


def test_options_that_need_a_budget(cli, tiny_run):
    code, _, err = cli("solve", tiny_run, "0110", "--restarts", 3)
    assert code == 2
    assert "--restarts requires --budget" in err
    code, _, err = cli("eval", tiny_run, "--solver", "anderson")
    assert code == 2
    assert "--solver requires --budget" in err
    code, _, err = cli("eval", tiny_run, "--budget", 4, "--solver", "unroll")
    assert code == 2
    assert "one that stops by itself" in err
    code, _, err = cli("eval", tiny_run, "--budget", 4, "--solver", "andersen")
    assert code == 2
    assert "did you mean anderson?" in err
    code, _, err = cli("eval", tiny_run, "--budget", 4, "--select", "luck")
    assert code == 2
    assert "must be residual or vote" in err


def test_few_frames():
    assert sample_changes([1]) == [1]
    assert sample_changes([1, 2, 5]) == [1, 2, 5]
    many = sample_changes(list(range(1, 400)))
    assert len(many) == 6
    assert many[0] == 1
    assert many[-1] == 399
    assert many == sorted(set(many))


# --- pipes


def test_a_closed_pipe_is_no_traceback(tmp_path):
    """The reader of the pipe is gone before the command prints, as in `eqloop ... | head -1`."""
    path = tmp_path / "set.csv"
    path.write_text("question\n" + "0\n" * 50_000)
    command = f"{sys.executable} -m eqloop.cli data check {path} --task prefix-sums | true"
    completed = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in completed.stderr
