"""Does a command that is killed at any moment lose or leave anything?

    python benchmarks/kills.py [--train 20] [--others 10] [--seed 0] [--only ...] [--tasks ...]

**Question:** Training (three tasks, unrolled and with implicit gradients), `data make`, `eval`,
`report` and `stability` are killed at random moments, by SIGKILL and SIGINT in turn: training at
any moment after its first step, the others after their first write. Afterwards the same command
runs to its end. Nothing may be lost (what was there stays whole), nothing left over (temporary
files, locks), and a run that was resumed has the same checkpoints, byte for byte, and the same
logged numbers as one that was never stopped.

**Last numbers:** see LOG.md.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGINT)
PATIENCE = 600
SMALL = {
    "model.width": 16,
    "model.heads": 2,
    "solver.steps": 4,
    "train.batch": 8,
    "train.checkpoint_every": 7,
    "train.validate_every": 20,
    "train.validation_rows": 16,
    "train.validation_iterations": 4,
    "train.keep": 2,
    "train.ema": 0.9,
}
BITS = {"task.length": 8, "task.validation_length": 0, "task.hard_length": 8, "task.rows": 60}
BITS |= {"task.test_rows": 16}
TASKS = {
    "prefix-sums": BITS,
    "sudoku": {"task.box": 2, "task.rows": 60},
    "chess": {"task.rows": 60},
}
GRADIENTS = {
    "unroll": {"train.burn_in": 0},
    "implicit": {"solver.name": "fixed-point", "solver.gradient": "implicit",
                 "solver.max_steps": 8, "train.loss": "last"},
}  # fmt: skip
STEPS = 150


def eqloop(*args: object) -> list[str]:
    return [sys.executable, "-m", "eqloop.cli", *map(str, args)]


def options(settings: dict[str, object]) -> list[str]:
    return [f"--set={name}={value}" for name, value in settings.items()]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def finish(command: list[str], *, codes: tuple[int, ...] = (0,)) -> None:
    process = start(command)
    _, err = process.communicate(timeout=PATIENCE)
    if process.returncode not in codes or "Traceback" in err:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {err[-2000:]}")


def kill(command: list[str], number: int, ready: Callable[[], bool], pause: float) -> str:
    """Start a command, wait until it is `ready` and `pause` seconds more, and send it a signal.
    Returns "killed", or "done" if the command ended first."""
    child = start(command)
    began = time.monotonic()
    while child.poll() is None and not ready():
        if time.monotonic() - began > PATIENCE:
            child.kill()
            raise RuntimeError(f"{' '.join(command)}: never came to its first write")
        time.sleep(0.005)
    time.sleep(pause)
    child.send_signal(number)
    _, err = child.communicate(timeout=PATIENCE)
    if child.returncode == 0:
        return "done"
    if "Traceback" in err or child.returncode not in (-number, 1, 130):
        raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}: {err[-2000:]}")
    return "killed"


def leftovers(folder: Path) -> list[str]:
    """List temporary files and locks."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name == "lock" or path.suffix in (".tmp", ".part")
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Read the checkpoints, the record of the best, and the log without times and checksums."""
    results = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in [*folder.glob("checkpoints/*"), folder / "spec.toml"]
    }
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for name in ("seconds", "examples_per_s", "began_at", "crc32"):
            row.pop(name, None)
    return results | {"metrics.jsonl": json.dumps(rows).encode()}


def trainings(folder: Path, tasks: list[str], kills: int, rng: random.Random) -> Iterator[str]:
    """Kill trainings of each combination in turn; each run is resumed to its end after its
    kills."""
    cases = [(task, gradient) for task in tasks for gradient in GRADIENTS]
    for place, (task, gradient) in enumerate(cases):
        settings = options({**TASKS[task], **SMALL, **GRADIENTS[gradient]})
        begin = ["train", "--task", task, "--steps", STEPS, *settings, "--out"]
        reference, killed = (folder / f"{task}-{gradient}-{name}" for name in ("whole", "killed"))
        finish(eqloop(*begin, reference))
        log = killed / "metrics.jsonl"
        for number in range(place, kills, len(cases)):
            has_spec = (killed / "spec.toml").exists()
            size = log.stat().st_size if log.exists() else -1
            command = eqloop("train", "--resume", killed) if has_spec else eqloop(*begin, killed)

            def log_has_grown(log: Path = log, size: int = size) -> bool:
                return log.exists() and log.stat().st_size != size

            yield kill(command, SIGNALS[number // len(cases) % 2], log_has_grown, rng.uniform(0, 1))
        finish(eqloop("train", "--resume", killed))
        expected, actual = contents(reference), contents(killed)
        if differing := [
            name for name in {*expected, *actual} if expected.get(name) != actual.get(name)
        ]:
            raise RuntimeError(f"{killed}: not the same as never stopped: {differing}")
        if left := leftovers(killed):
            raise RuntimeError(f"{killed}: left over: {left}")


def others(folder: Path, run: Path, name: str, kills: int, rng: random.Random) -> Iterator[str]:
    """Kill one of the commands that write files, after its first write."""
    out = folder / name
    out.mkdir()
    copy = out / "run"
    bits = out / "bits.csv"
    commands = {
        "data make": ["data", "make", "-t", "prefix-sums", "--rows", 20_000, "--out", bits],
        "eval": ["eval", copy, "--iterations", 64, "--rows", 16],
        "report": ["report", copy, "--out", out / "report"],
        "stability": ["stability", copy, "--examples", 4, "--iterations", 16],
    }
    watched = {"data make": out, "eval": copy / "eval", "report": out / "report"}
    watched["stability"] = copy / "stability"
    command = eqloop(*commands[name])
    if name == "data make":
        command.append("--force")
    for number in range(kills):
        if name != "data make":
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
        before = stamps(watched[name])

        def wrote(before: dict[str, int] = before) -> bool:
            return stamps(watched[name]) != before

        yield kill(command, SIGNALS[number % 2], wrote, rng.uniform(0, 0.3))
        whole(out)
        if name != "data make" and contents(copy) != contents(run):
            raise RuntimeError(f"{name}: the run is no longer what it was")
        if number in (kills - 2, kills - 1):  # after one kill by each signal
            finish(command)
            whole(out)
            if left := leftovers(out):
                raise RuntimeError(f"{name}: left over: {left}")


def whole(folder: Path) -> None:
    """Assert that every file that is not temporary is complete."""
    for path in folder.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_text())
    for path in folder.glob("bits.csv"):
        lines = path.read_text().splitlines()
        if len(lines) != 20_001:
            raise RuntimeError(f"{path}: {len(lines):,} lines")


def stamps(folder: Path) -> dict[str, int]:
    if not folder.exists():
        return {}
    results = {}
    for path in folder.iterdir():
        try:
            results[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train", type=int, default=20, help="Kills of training, in all.")
    parser.add_argument("--others", type=int, default=10, help="Kills of each other command.")
    parser.add_argument("--seed", type=int, default=0)
    names = ("train", "data make", "eval", "report", "stability")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=[*TASKS])
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {
            "EQLOOP_CACHE": str(folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        run = folder / "run"
        if {*arguments.only} - {"train", "data make"}:
            settings = options({**BITS, **SMALL, **GRADIENTS["unroll"]})
            finish(eqloop("train", "--steps", 20, *settings, "--out", run))
        for command in arguments.only:
            began = time.monotonic()
            if command == "train":
                outcomes = list(trainings(folder, arguments.tasks, arguments.train, rng))
            else:
                outcomes = list(others(folder, run, command, arguments.others, rng))
            counts = {outcome: outcomes.count(outcome) for outcome in ("killed", "done")}
            print(f"{command}: {counts}, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
