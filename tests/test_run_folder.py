"""A run folder has one owner, reports files that contradict each other, and survives kills, full
disks, folders that move, damage, and special files."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from report_example import an_evaluation
from tiny_task import Tiny, tiny_spec

from eqloop import InputError, _files
from eqloop._build import restore
from eqloop._files import exclusive, remove_leftovers, replacing, write_atomic
from eqloop._schema import FLAT, from_table, to_table
from eqloop._tables import format_json, parse_json, parse_toml, read_json
from eqloop.run import (
    LINES,
    EvaluationRecord,
    History,
    MetricsLog,
    Origin,
    RunResults,
    Spec,
    TrainingLine,
    create_run,
    last_training_line,
    make_folder,
    open_run,
    owned,
    parse_setting,
    read_metrics,
    read_run,
    read_spec,
    same_content,
    say_steps,
    trained_seconds,
)
from eqloop.run._folder import LOCK
from eqloop.tasks import make_task
from eqloop.train import init_state, train

SPEC = tiny_spec(
    "train.steps=4", "train.validate_every=2", "train.checkpoint_every=2", "train.keep=2"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of four steps with two checkpoints; tests must copy it before they change it."""
    path = tmp_path_factory.mktemp("trained") / "run"
    train(SPEC, Tiny(), path)
    return path


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


# --- one owner


def test_a_run_is_trained_by_one_process_at_a_time(run):
    before = (run / "metrics.jsonl").read_bytes()
    with (
        owned(run),
        pytest.raises(InputError, match=rf"is being trained by process {os.getpid()} on \S+: wait"),
    ):
        train(None, Tiny(), run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert not (run / LOCK).exists()
    (run / LOCK).write_text("1 elsewhere\n")  # as a killed process leaves it
    assert train(None, Tiny(), run, resume=True).status == "finished"
    assert not (run / LOCK).exists()


def test_two_that_begin_one_run_do_not_share_it(tmp_path):
    make_folder(tmp_path / "run")
    with owned(tmp_path / "run"), pytest.raises(InputError, match="is being trained by"):
        train(SPEC, Tiny(), tmp_path / "run")
    assert not (tmp_path / "run" / "spec.toml").exists()


def test_a_lock_file_that_its_holder_removes_is_taken_anew(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", fcntl.flock
    path.touch()

    def removed_first(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with exclusive(path), pytest.raises(_files.Held), exclusive(path):
        pass


def test_where_there_are_no_locks_that_is_said_once(tmp_path, monkeypatch, caplog):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for name in ("one", "two"):
        with exclusive(tmp_path / name):
            write_atomic(tmp_path / "file", [b"x"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} is on a file system without locks: see to it that only one process writes "
        "there"
    ]


# --- what is written


def test_what_a_killed_writer_left_is_removed_and_that_of_a_live_one_is_not(tmp_path):
    path = tmp_path / "a.json"
    for left in (".a.json.tmp", ".a.json.0123abcd.tmp", ".a.json.0123abcd.part"):
        (tmp_path / left).write_bytes(b"half")
    with replacing(path) as file:
        file.write(b"one")
        write_atomic(path, [b"two"])  # another write of the same file, at the same time
        remove_leftovers(tmp_path)
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def special(path: Path, kind: str) -> None:
    """Replace a file by something that is not a regular file."""
    path.unlink(missing_ok=True)
    match kind:
        case "a folder":
            path.mkdir()
        case "a FIFO":
            os.mkfifo(path)
        case "a loop":
            path.symlink_to(path)
        case "a device":
            path.symlink_to("/dev/zero")


KINDS = ("a folder", "a FIFO", "a loop", "a device")


@pytest.mark.parametrize("kind", [*KINDS, "a link"])
def test_only_regular_files_are_replaced(kind, tmp_path):
    path, behind = tmp_path / "file", tmp_path / "behind"
    behind.write_text("mine")
    if kind == "a link":
        path.symlink_to(behind)
    else:
        special(path, kind)
    before = path.lstat()
    with pytest.raises(OSError, match="only regular files will do"):
        write_atomic(path, [b"x"])
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert behind.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_data_make_replaces_files_and_nothing_else(tmp_path, cli):
    make = ["data", "make", "--task", "prefix-sums", "--rows", 4, "--force", "--out"]
    (tmp_path / "behind").write_text("mine")
    (tmp_path / "a link").symlink_to(tmp_path / "behind")
    for kind in KINDS:
        special(tmp_path / kind, kind)
    for kind in (*KINDS, "a link"):
        code, out, err = cli(*make, tmp_path / kind)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(tmp_path / kind) in err
    assert {file.name for file in tmp_path.iterdir()} == {*KINDS, "a link", "behind"}
    assert (tmp_path / "behind").read_text() == "mine"
    assert cli(*make, tmp_path / "behind")[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_one_line_and_never_waited_for(kind, trained, tmp_path):
    def resume(run: Path) -> None:
        train(None, Tiny(), run, resume=True)

    def weights(run: Path) -> None:
        restore(open_run(run))

    cases = {
        "spec.toml": (open_run, read_spec),
        "data.json": (open_run,),
        "metrics.jsonl": (resume,),
        "checkpoints/best.json": (weights, read_run),
        "checkpoints/step-00000004.safetensors": (resume,),
        "eval/test.json": (read_run,),
        "stability/report.json": (read_run,),
    }
    for number, (name, readers) in enumerate(cases.items()):
        run = Path(shutil.copytree(trained, tmp_path / str(number)))
        (run / name).parent.mkdir(exist_ok=True)
        special(run / name, kind)
        for read in readers:
            if kind == "a loop" and read is read_run and name.startswith(("eval", "stab")):
                continue  # as if the file did not exist
            with pytest.raises(InputError) as caught:
                read(run)
            assert str(run) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_the_disk_fills_or_the_folder_moves_and_the_run_goes_on_afterwards(
    trained, tmp_path, monkeypatch
):
    path, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    from eqloop.train._trainer import Trainer

    validate = Trainer._validate

    def moved(self):
        if self.done == 4:
            path.rename(elsewhere)
        return validate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", moved)
        with pytest.raises(InputError, match=r"step 4 \(No such file.*saved up to step 2.*resume"):
            train(SPEC, Tiny(), path)

    def full(self, line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", full)
        with pytest.raises(InputError, match=r"\(No space left on device\): the run is saved up"):
            train(None, Tiny(), elsewhere, resume=True)
    train(None, Tiny(), elsewhere, resume=True)
    last = "checkpoints/step-00000004.safetensors"
    assert (elsewhere / last).read_bytes() == (trained / last).read_bytes()
    assert not list(elsewhere.glob(".*"))
    assert not (elsewhere / LOCK).exists()


# --- what is read


def test_any_byte_of_a_table_may_change_but_not_what_it_says():
    table = {"step": 2, "exact": 0.25, "curve": [1e-7, None, True], "of": {"0.5": "median"}}
    text = format_json(table, indent=1)
    assert parse_json(text) == table
    assert parse_json(json.dumps(table)) == table, "without a checksum, as earlier versions wrote"
    rng = np.random.default_rng(0)
    for place in range(len(text)):
        damaged = bytearray(text)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            parsed = parse_json(bytes(damaged))
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert parsed == table


DEEP, LONG = "[" * 100_000, "9" * 5_000


@pytest.mark.parametrize("text", [DEEP, LONG, "[]", "null", '{"a": ' + LONG + "}", "\x00", "{"])
def test_json_of_any_kind_is_a_table_or_one_line(text, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"t\.json: damaged, not .*; do this") as caught:
        read_json(tmp_path / "t.json", "do this")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [f"a = {DEEP}", f"a = {LONG}", "a = ", "\x00"])
def test_toml_of_any_kind_is_tables_or_one_line(text):
    with pytest.raises(InputError, match=r"t\.toml is not valid TOML"):
        parse_toml(text, "t.toml")


def test_settings_of_any_kind_are_values_or_one_line():
    for value in (DEEP, LONG):
        with pytest.raises(InputError, match=r"--set train\.steps: the value"):
            parse_setting(f"train.steps={value}")
    with pytest.raises(InputError, match="contains NUL"):
        tiny_spec('train.validation_split="validation\\u0000"')
    with pytest.raises(InputError, match=r"cannot contain NUL"):
        Spec.from_toml(Path("a\0b"))


# --- what contradicts


def test_the_checkpoint_counts_and_not_what_lies_beside_it(run, caplog):
    opened, best = open_run(run), run / "checkpoints/best.json"
    true = read_json(best, "")
    other_step = ({2, 4} - {true["step"]}).pop()
    for record_of_best in ({**true, "exact": 0.125}, {**true, "step": other_step}):
        best.write_bytes(format_json(record_of_best))
        caplog.clear()
        assert opened.find("best") == true["step"]
        (record,) = caplog.records
        assert f"{best} says that step {record_of_best['step']} is best" in record.getMessage()
    caplog.clear()
    best.unlink()
    assert opened.find("best") == true["step"]
    assert read_run(run).validation == (true["exact"], true["cells"])
    assert not caplog.records
    shutil.copy(opened.checkpoint(4), opened.checkpoint(2))
    with pytest.raises(InputError, match="is of step 4, which is not what its name"):
        restore(opened, 2)
    spec = run / "spec.toml"
    text = spec.read_text()
    spec.write_text(text.replace("lr = 0.002", "lr = 0.003"))
    with pytest.raises(InputError, match=r"trained with another.*\(train\.lr: 0\.002 -> 0\.003\)"):
        read_spec(run)
    spec.write_text(text + "\n[[phases]]\nuntil = 2\ntrain.lr = 0.1\n")
    with pytest.raises(InputError, match=r"trained with another spec .* \(phases\)"):
        read_spec(run)
    spec.write_text(text.replace("lr = 0.002", "lr = -1.0"))
    with pytest.raises(InputError, match=r"spec\.toml: train\.lr must be above 0"):
        read_spec(run)
    # An older version, which did not know this field, began the run; this version resumed it.
    spec.write_text(text.replace("carry_steps = 1\n", ""))
    assert spec.read_text() != text
    assert read_spec(run)["train.carry_steps"] == 1


def test_results_of_several_checkpoints_are_told_of(tmp_path, caplog):
    def split(step: int | None) -> EvaluationRecord:
        return from_table(EvaluationRecord, an_evaluation([0.5], step=step))

    for steps, warnings in (((4, 4, 4), 0), ((4, 4, None), 0), ((4, 4, 6), 1), ((2, 4, 4), 1)):
        caplog.clear()
        test, hard, best = steps
        splits = {"test": split(test), "hard": split(hard)}
        say_steps(tmp_path, RunResults(splits, best, None, None))
        assert len(caplog.records) == warnings
    assert "eval/test.json 2, eval/hard.json 4, checkpoints/best.json 4" in caplog.text


def test_a_manifest_says_where_a_run_comes_from():
    origin = {"path": "runs/a", "step": 4, "weights": "raw", "sha256": "0"}
    data = {"task": "tiny", "lengthened_by": 1}
    manifest = {**data, "started_from": origin, "lengthened": [2, 4]}
    history = History.of(manifest)  # a manifest of a version that did not know moments
    assert history.started_from == Origin(**origin)  # pyright: ignore[reportArgumentType]
    assert history.longest_before == 4
    extended = history.added_to(data)
    assert list(extended) == [*data, "started_from", "lengthened"]
    assert list(extended["started_from"]) == ["path", "step", "weights", "moments", "sha256"]
    assert same_content(extended, data) == ""
    assert History().added_to(data) == data
    with pytest.raises(ValueError, match=r"lengthened\[0\] is '2'"):
        History.of({"lengthened": ["2"]})


def test_the_lines_of_a_log_are_read_as_they_were_written(trained):
    rows = read_metrics(trained / "metrics.jsonl")
    assert [row["kind"] for row in rows] == ["train", "train", "validation"] * 2
    for row in rows:
        assert list(to_table(from_table(LINES[row["kind"]], row)).items()) == list(row.items())


@pytest.mark.parametrize(
    ("clock", "total"),
    [
        ([(0, 20), (None, 21), (2, 22), (None, 23)], 44),
        ([(0, 20), (None, 21), (2, 2), (None, 3)], 24),
        ([(None, 20), (None, 21), (2, 22), (None, 23)], 44),  # begun by a version without marks
        ([(None, 20), (None, 21), (None, 2), (None, 3)], 24),
        ([(None, 20), (None, 21), (None, 22), (None, 23)], 23),
    ],
)
def test_the_time_of_training_is_that_of_all_processes(clock, total, tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for step, (began_at, seconds) in enumerate(clock, 1):
        log.write(TrainingLine(step, 0, {"loss": 0.5}, 9.0, seconds, began_at))
    log.close()
    assert trained_seconds(tmp_path / "metrics.jsonl") == total


def test_the_first_line_of_a_process_says_where_it_began(run):
    train(None, Tiny(), run, resume=True, steps=6)
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "train"]
    assert [row.get("began_at") for row in rows] == [0, None, None, None, 4, None]
    assert "began_at" not in rows[1]

    @dataclasses.dataclass(frozen=True)
    class Older:
        kind: str
        step: int
        metrics: Mapping[str, float] = dataclasses.field(metadata=FLAT)
        seconds: float

    assert [from_table(Older, row).step for row in rows] == [1, 2, 3, 4, 5, 6]


def test_the_last_training_line_of_a_log_that_is_being_written(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert last_training_line(log) is None
    line = TrainingLine(step=1, epoch=0, metrics={"loss": 0.5}, examples_per_s=9.0, seconds=0.1)
    steps = [dataclasses.replace(line, step=step) for step in range(1, 400)]
    lines = [format_json(to_table(step)) for step in steps]
    lines += [format_json({"kind": "validation", "step": 399})]
    for count, step in ((1, 1), (3, 3), (400, 399)):
        for cut_off in (b"", b'{"kind": "train", "step": 7'):
            log.write_bytes(b"".join(lines[:count]) + cut_off)
            assert last_training_line(log) == steps[step - 1]


def test_damaged_lines_of_a_log_are_told_of(run, caplog):
    log = run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"loss": ', b'"loss": 1')
    log.write_bytes(b"".join(lines) + b'{"kind": "tr')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: not a line of a log: its checksum"):
        read_metrics(log)
    train(None, Tiny(), run, resume=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"{log}: 1 damaged lines are left out from now on: 2"
    ]
    assert log.read_bytes().splitlines(keepends=True) == lines[:1] + lines[2:]


def test_weights_that_are_no_numbers_have_no_accuracy(tmp_path):
    run = create_run(tmp_path / "run", SPEC, {})
    state = init_state(SPEC)
    bad = jax.tree.map(lambda x: x, state.model.coda.output.bias.at[0].set(jnp.nan))
    state = eqx.tree_at(lambda s: s.model.coda.output.bias, state, bad)
    run.save(state, 2, None)
    with pytest.raises(InputError, match=r"step-00000002.*coda\.output\.bias holds NaN"):
        restore(run, "last")


def test_data_is_what_it_holds_and_not_where_it_lies(tmp_path):
    def manifest(folder: str, text: str = "01010101\n"):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "bits.csv"
        path.write_text("question\n" + text * 30)
        fields = {"data": str(path), "length": 8, "test_rows": 4}
        return make_task("prefix-sums", fields).load().manifest

    old: dict[str, Any] = dict(manifest("here"))
    assert same_content(old, manifest("there")) == ""
    assert same_content(json.loads(json.dumps(old)), old) == "", "as data.json has it"
    assert same_content(old, manifest("there", "01010111\n")) == "source"
    # A manifest from before the task got a field whose default is off.
    older = {**old, "fields": {k: v for k, v in old["fields"].items() if k != "shortest"}}
    assert same_content(older, old) == ""
    assert same_content(older, {**old, "fields": {**old["fields"], "shortest": 3}}) == "fields"
    relocated = tiny_spec("task.data=/there/bits.csv")
    here = tiny_spec("task.data=/here/bits.csv")
    assert not here.differences(relocated, place=False)
    assert here.differences(relocated) == ["task.data: '/here/bits.csv' -> '/there/bits.csv'"]
    older = dataclasses.replace(here, task={k: v for k, v in here.task.items() if k != "rows"})
    assert not here.differences(older)
    assert tiny_spec("task.rows=9").differences(older)[1:] == ["task.rows: 9 -> None"]


# --- commands


def test_ctrl_c_keeps_the_splits_that_are_evaluated(tiny_run, cli, monkeypatch):
    import eqloop.evaluate

    measure, calls = eqloop.evaluate.measure, []

    def second_is_stopped(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args, **options)

    monkeypatch.setattr(eqloop.evaluate, "measure", second_is_stopped)
    code, out, err = cli("eval", tiny_run, "--iterations", 4, "--rows", 8)
    assert code == 130
    assert out.count("iterations, in %") == 1
    assert err == (
        "stopped before test, hard, hard-x2, hard-x4, which the same command with --split "
        "measures\n"
    )


def test_a_full_device_and_a_name_too_long_are_one_line(cli):
    command = [sys.executable, "-m", "eqloop.cli", "--version"]
    with Path("/dev/full").open("w") as full:
        completed = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert completed.returncode == 2
    assert completed.stderr == "error: cannot write the output: No space left on device\n"
    long = "x" * 300
    assert cli("eval", long) == (2, "", f"error: {long}: File name too long\n")


def test_without_a_home_nothing_is_cached_and_that_is_said(monkeypatch, caplog):
    from eqloop._task import _dataset

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("EQLOOP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):
        assert _dataset.cached({"task": "t"}, lambda: {"a": np.zeros(1)})["a"] == 0
    (record,) = caplog.records
    assert "no home folder" in record.getMessage()


def test_the_damaged_cache_file_is_made_anew(shared, tmp_path, monkeypatch, caplog):
    from eqloop._task import _dataset

    monkeypatch.setenv("EQLOOP_CACHE", str(tmp_path))
    _dataset.cached({"task": "t"}, lambda: {"a": np.zeros(1)})
    (path,) = (tmp_path / "data").iterdir()
    path.write_bytes((shared / "data" / "faults" / "cache-crash.npz").read_bytes())
    assert _dataset.cached({"task": "t"}, lambda: {"a": np.ones(1)})["a"] == 1
    (record,) = caplog.records
    assert f"cache file {path} cannot be used" in record.getMessage()


# --- damage, of which benchmarks/damage.py makes more


def test_a_damaged_byte_changes_nothing_without_a_word(tiny_run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    cache = tmp_path / "cache"
    monkeypatch.setenv("EQLOOP_CACHE", str(cache))
    import damage  # pyright: ignore[reportMissingImports]

    damage.readers()["data"](tiny_run)  # this fills the cache
    flips = list(damage.damage({tiny_run: damage.READ_BY}, cache, 16, 0, tmp_path / "copy"))
    assert [flip for flip in flips if flip.fault] == []
    assert len({flip.file for flip in flips}) > 5
    assert sum(flip.outcome == "said" for flip in flips) > 5


def test_any_byte_of_a_log_may_change_but_no_line_is_lost_in_silence(tmp_path, caplog):
    path, rows = tmp_path / "metrics.jsonl", [{"step": step, "loss": 0.5} for step in (1, 2, 3)]
    text = b"".join(map(format_json, rows))
    for place in range(len(text)):
        for value in (0x0D, 0x0A, 0x09, 0x30):
            path.write_bytes(text[:place] + bytes([value]) + text[place + 1 :])
            try:
                read = read_metrics(path)
            except InputError as error:
                assert "metrics.jsonl" in str(error)  # noqa: PT017
            else:
                assert read == rows, (place, value)
            caplog.clear()
            MetricsLog(path, 3).close()  # as a run does that resumes from step 3
            assert caplog.records or read_metrics(path) == rows, (place, value)


def test_a_line_that_was_cut_off_is_not_read(tmp_path):
    path, line = tmp_path / "metrics.jsonl", format_json({"step": 1})
    for length in range(len(line)):
        path.write_bytes(line + line[:length])
        assert read_metrics(path) == [{"step": 1}]
