"""Does a damaged byte in a run folder or in the cache ever change a result without a word?

    python benchmarks/damage.py [--flips 1000] [--seed 0] [--made FOLDER]

**Question:** One byte of one file of a run, a sweep, the cache or a checkpoint of PyTorch is
replaced by another. Whatever reads that file must give the same result as before or say one clear
line: no traceback, no hang, no silent difference. The file is drawn first, then the byte, so that
small files count as much as checkpoints. All of it runs in one process, on a run and a sweep that
are trained for a moment here.

**Last numbers:** see LOG.md.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

LONGEST = 60
"""Seconds after which reading counts as a hang."""
SETTINGS = {
    "task.length": 8,
    "task.validation_length": 0,
    "task.hard_length": 8,
    "task.rows": 60,
    "task.test_rows": 16,
    "model.width": 16,
    "model.heads": 2,
    "solver.steps": 4,
    "train.burn_in": 0,
    "train.batch": 8,
    "train.checkpoint_every": 2,
    "train.validate_every": 2,
    "train.validation_iterations": 4,
}
TIMES = {"seconds", "examples_per_s", "evaluations_per_s", "began_at"}

Reader = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Flip:
    """The outcome of one damaged byte: "same", "said", or a fault ("silent", "traceback", "hang",
    "many lines"), and the output."""

    file: str
    place: int
    outcome: str
    seen: str = ""

    @property
    def fault(self) -> bool:
        return self.outcome not in ("same", "said")


def make_subjects(folder: Path) -> None:
    """Make `folder/run`, with everything that commands write into a run, `folder/sweep`, of two
    runs, and `folder/weights`, with a checkpoint in the layout of PyTorch."""
    from eqloop.cli import main

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch_layout  # pyright: ignore[reportMissingImports]

    (folder / "weights").mkdir()
    params, buffers = torch_layout.arrays_of("trm", width=8, cells=4)
    torch_layout.save(torch_layout.trained(params | buffers), folder / "weights" / "step_1")

    data = folder / "bits.csv"
    run = folder / "run"
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    commands = (
        ["data", "make", "--task", "prefix-sums", "--rows", "60", "--set=task.length=8",
         "--out", str(data)],
        ["train", "--data", str(data), "--out", str(run), "--steps", "6", *settings],
        ["eval", str(run), "--budget", "8", "--rows", "8"],
        ["stability", str(run), "--examples", "4", "--iterations", "16"],
    )  # fmt: skip
    grid = folder / "grid.toml"
    table = "\n".join(f'"{name}" = {value}' for name, value in SETTINGS.items())
    grid.write_text(
        f'task = "prefix-sums"\n[set]\n"train.steps" = 4\n{table}\n'
        "[evaluate]\niterations = 4\nrows = 8\n[axes]\nseed = [0, 1]\n"
    )
    commands += (["sweep", str(grid), "--jobs", "1", "--out", str(folder / "sweep")],)
    for command in commands:
        if main(command) != 0:
            raise RuntimeError(f"eqloop {' '.join(command)} failed")


def readers() -> dict[str, Reader]:
    """All readers of files, by name: each returns its result."""
    import numpy as np

    from eqloop.cli import main
    from eqloop.interop import read_weights
    from eqloop.report import read_results, results_tables
    from eqloop.run import open_run, read_metrics, read_player, read_stability
    from eqloop.sweep import open_sweep
    from eqloop.tasks import make_task
    from eqloop.train import train

    def task_of(run: Path) -> Any:
        spec = open_run(run).spec
        return make_task(spec.task_name, spec.task_fields)

    def evaluated(run: Path) -> Any:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(["eval", str(run), "--iterations=4", "--rows=8", "--split=test", "--json"])
        return code, json.loads(out.getvalue() or "null")

    def resumed(run: Path) -> Any:
        done = train(None, task_of(run), run, resume=True)
        return done.step, done.best, read_metrics(run / "metrics.jsonl")

    def reported(run: Path) -> Any:
        tables = results_tables(read_results([run]))
        return json.loads(json.dumps(tables, default=str).replace(str(run), "RUN"))

    def loaded(run: Path) -> Any:
        splits = task_of(run).load().splits
        return {name: [split.inputs.tolist(), split.targets.tolist(), split.puzzles.tolist()]
                for name, split in splits.items()}  # fmt: skip

    def stability(run: Path) -> Any:
        return read_stability(run / "stability").tables(), read_player(run / "stability")

    def imported(folder: Path) -> Any:
        weights = read_weights(folder / "step_1")
        return {name: (tensor.shape, str(tensor.dtype), np.asarray(tensor).tobytes())
                for name, tensor in weights.items()}  # fmt: skip

    def swept(sweep: Path) -> Any:
        opened = open_sweep(sweep, make_task=make_task)
        ends = {cell.name: opened.ended(cell) for cell in opened.grid.cells}
        for name, end in ends.items():
            if end is None or end.status == "failed":  # the command does it again
                print(f"{name}: {end.error if end else 'missing'}", file=sys.stderr)
        return {name: str(end) for name, end in ends.items()}

    return {
        "sweep": swept,
        "eval": evaluated,
        "resume": resumed,
        "report": reported,
        "stability": stability,
        "data": loaded,
        "weights": imported,
    }


READ_BY = {
    "spec.toml": ("eval", "resume", "report"),
    "data.json": ("eval", "resume"),
    "metrics.jsonl": ("resume", "report"),
    "checkpoints/best.json": ("eval", "resume", "report"),
    "checkpoints/*.safetensors": ("eval", "resume", "report"),
    "eval/*.json": ("report",),
    "stability/*.json": ("report", "stability"),
    "cache": ("data",),
}
"""Of the files of a run that anything reads: by what."""
SWEEP_READ_BY = {
    "sweep.toml": ("sweep", "report"),
    "cells.json": ("sweep", "report"),
    "state/*.json": ("sweep", "report"),
}
WEIGHTS_READ_BY = {"step_1": ("weights",)}


def read(reader: Reader, run: Path) -> tuple[Any, str, str]:
    """Return the result of a reader, its output, and its failure: "", "traceback" or "hang"."""
    output = io.StringIO()

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    warnings = logging.StreamHandler(output)
    logging.getLogger().addHandler(warnings)
    try:
        with contextlib.redirect_stderr(output):
            return without_times(reader(run)), output.getvalue(), ""
    except ValueError as error:
        from eqloop import InputError

        if isinstance(error, InputError):
            return None, f"{output.getvalue()}error: {error}\n", ""
        return None, traceback.format_exc(), "traceback"
    except TimeoutError:
        return None, output.getvalue(), "hang"
    except Exception:
        return None, traceback.format_exc(), "traceback"
    finally:
        signal.alarm(0)
        logging.getLogger().removeHandler(warnings)
        signal.signal(signal.SIGALRM, before)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(item) for k, item in value.items() if k not in TIMES}
    if isinstance(value, list | tuple):
        return [without_times(item) for item in value]
    return value


def damage(
    subjects: Mapping[Path, Mapping[str, tuple[str, ...]]],
    cache: Path,
    flips: int,
    seed: int,
    copy: Path,
) -> Iterator[Flip]:
    """Damage copies of `subjects` (folder -> its files and their readers), and the file in `cache`,
    one byte each, and read them."""
    rng, reader_of = random.Random(seed), readers()
    # The file, the folder that is copied, and the names of its readers.
    files: list[tuple[Path, Path, tuple[str, ...]]] = []
    for root, patterns in subjects.items():
        for pattern, names in patterns.items():
            paths = cache.rglob("*.npz") if pattern == "cache" else root.glob(pattern)
            files += [(path, root, names) for path in sorted(paths)]
    expected = {}
    for root, name in sorted({(root, name) for _, root, names in files for name in names}):
        fresh(root, copy)
        value, output, failure = read(reader_of[name], copy)
        if output or failure:
            raise RuntimeError(f"{name} of an undamaged {root.name}: {failure} {output}")
        expected[root, name] = value
    for _ in range(flips):
        path, root, names = rng.choice(files)
        content = path.read_bytes()
        place, mask = rng.randrange(len(content)), rng.randrange(1, 256)
        damaged = content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
        cached = not path.is_relative_to(root)
        flip = Flip(path.name if cached else str(path.relative_to(root.parent)), place, "same")
        for name in names:
            fresh(root, copy)
            (path if cached else copy / path.relative_to(root)).write_bytes(damaged)
            value, output, failure = read(reader_of[name], copy)
            flip = worse(flip, name, output, failure, same=value == expected[root, name])
        if cached:
            path.write_bytes(content)
        yield flip


def worse(flip: Flip, name: str, output: str, failure: str, *, same: bool) -> Flip:
    """Return `flip`, or a copy with the outcome of one more reader if that is worse."""
    if failure:
        return dataclasses.replace(flip, outcome=failure, seen=f"{name}: {output}")
    if output.count("\n") > 1:
        return dataclasses.replace(flip, outcome="many lines", seen=f"{name}: {output}")
    if not output and not same:
        return dataclasses.replace(flip, outcome="silent", seen=name)
    if output and not flip.fault:
        return dataclasses.replace(flip, outcome="said", seen=f"{name}: {output}")
    return flip


def fresh(folder: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--made", type=Path, help="A folder for what is damaged.")
    options = parser.parse_args()
    logging.captureWarnings(True)
    with tempfile.TemporaryDirectory() as name:
        folder = options.made or Path(name)
        folder.mkdir(exist_ok=True)
        os.environ["EQLOOP_CACHE"] = str(folder / "cache")
        if not (folder / "sweep" / "cells.json").exists():
            make_subjects(folder)
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        faults = 0
        subjects = {folder / "run": READ_BY, folder / "sweep": SWEEP_READ_BY}
        subjects |= {folder / "weights": WEIGHTS_READ_BY}
        cache, copy = folder / "cache", Path(name) / "copy"
        for flip in damage(subjects, cache, options.flips, options.seed, copy):
            counts[flip.file][flip.outcome] += 1
            if flip.fault:
                faults += 1
                print(f"{flip.outcome}: byte {flip.place} of {flip.file}: {flip.seen}", flush=True)
        for file, outcomes in sorted(counts.items()):
            print(f"{file}: " + ", ".join(f"{n} {what}" for what, n in outcomes.items()))
        print(f"{options.flips} flips, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
