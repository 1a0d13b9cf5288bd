"""On a GPU, in one call of under 9 minutes: is it right, how fast, and cells of the paper's grid.

    uv run --with pip python benchmarks/gpu_pack.py                # with network, before: gpu-pack/
    python3 -m pip install -q --no-index --no-deps --target /tmp/site gpu-pack/wheels/*.whl
    PYTHONPATH=/tmp/site python3 benchmarks/gpu_paper.py --out OUT --reference gpu-pack/reference \
        --sudoku gpu-pack/sudoku.csv.gz

    python benchmarks/gpu_paper.py --small --out /tmp/out          # rehearsal on a CPU
    python benchmarks/gpu_paper.py --out OUT --parts cells --cells sudoku --sudoku FILE

The machine needs no network: JAX with CUDA, Equinox, Optimistix, Lineax, Diffrax, Optax, Numba,
safetensors and PyTorch are installed there; `gpu_pack.py` collects everything else, under 64 MiB.
The repository itself is not installed: the root is the working folder.

**Parts**, in this order; what a part leaves of its time goes to the next one:

1. `right`: reference vectors, one training step of every solver with every gradient against the
   same step on the CPU, and a run that is resumed bit for bit (`gpu_right.py`).
2. `speed`: training at width 256 against a compiled PyTorch port (`gpu.py --parts train-256`).
3. `cells`: of the paper's grid, one seed: prefix sums (internal, external, none) x (post, peri),
   then sudoku internal x (post, peri) and external x post, by the recipe and the learning rate of
   `benchmarks/full`; evaluated to 500 iterations (`--rows` examples of each split). `--jobs` cells
   share the GPU, each in a process of its own, since the small kernels of one do not fill it and
   compiling is done by the CPU: their seconds are those of a shared GPU. A cell is not begun if it
   would not end in time, judged by those that have ended; and of those that run, the last ones are
   stopped if the first would not end in time otherwise (`gpu_cells.py`). Steps are fewer than in
   the recipe only with `--steps TASK=N`, which the tables then show.

After each part, and each cell, `gpu.json` and `gpu.md` are replaced in one go, so a call that is
cut off loses one part, or the cells under way. Cells are in `runs-N.tar.gz`, `TOGETHER` in each,
about 4 MB a cell; unpacked in one folder they are sweeps as `eqloop sweep` makes them
(`eqloop report FOLDER/prefix-sums`), with logs, curves and the weights of the last checkpoint: they
cannot be trained further. At most 6 files in all.

**Machine and last numbers:** `results/gpu-h200`.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _machine import CLOSING, ROOT, Machine, clock, end, lines
from gpu_cells import ORDER, Cells

SECONDS = {"right": 100.0, "speed": 150.0, "cells": 240.0}
"""Of a call with all three; the last part of a call gets what is left."""


def plan(minutes: float, parts_to_run: Sequence[str], stretch: bool = False) -> dict[str, float]:
    """Return, for each part, the seconds after the start by which it must end: at most `SECONDS`
    for every part but the last, unless `stretch`."""
    total = 60 * minutes - CLOSING
    share = total / sum(SECONDS.values())
    share = share if stretch else min(1.0, share)
    ends, until = {}, 0.0
    for part in parts_to_run:
        until += share * SECONDS[part]
        ends[part] = until
    return ends | {parts_to_run[-1]: total}


# ---------------------------------------------------------------------------------- first parts


def describe(machine: Machine) -> dict[str, Any]:
    """Describe the device, in a process that sees it. Ends the program if there is no GPU."""
    answers = machine.work / "device.jsonl"
    with answers.open("wb") as out:
        process = machine.start("gpu_right.py", "device", out=out)
        machine.wait([process], machine.now + 120)
    results = lines(answers)
    if not results:
        raise SystemExit("JAX could not name a device within 120 s: see log.txt")
    if results[0]["platform"] == "cpu" and not machine.small:
        raise SystemExit("JAX sees no GPU here; --small rehearses all parts on a CPU")
    return results[0] | {"cores": os.cpu_count(), "driver": _driver()}


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None


def right(machine: Machine, until: float, reference: Path | None) -> dict[str, Any]:
    from gpu_right import DETERMINISTIC, jobs

    names = jobs(reference)
    if machine.small:
        names = [*names[::12], *[name for name in names if name.startswith("reference")][:1]]
    count = max(1, min(16, os.cpu_count() or 1, len(names)))
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # Each program runs once or twice, so that autotuning would not pay.
    quick = shared | {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    answers = [machine.work / f"right-{number}.jsonl" for number in range(count)]
    resumed = [machine.work / f"resume-{stage}.jsonl" for stage in ("begin", "resume")]
    with contextlib.ExitStack() as stack:
        outs = {path: stack.enter_context(path.open("wb")) for path in [*answers, *resumed]}

        def resume(path: Path) -> subprocess.Popen[bytes]:
            stage = path.stem.removeprefix("resume-")
            arguments = ("resume", str(machine.work), stage)
            return machine.start(
                "gpu_right.py", *arguments, out=outs[path], **shared, **DETERMINISTIC
            )

        processes = [resume(resumed[0])]
        for number, path in enumerate(answers):
            chosen = names[number::count]
            processes.append(machine.start("gpu_right.py", "job", *chosen, out=outs[path], **quick))
        if machine.wait(processes[:1], until) and processes[0].returncode == 0:
            processes.append(resume(resumed[1]))
        completed = machine.wait(processes, until)
    results = {result["job"]: result for path in answers for result in lines(path)}
    if resume_lines := lines(resumed[1]):
        results["resume"] = resume_lines[0]
    missing = [name for name in ("resume", *names) if name not in results]
    return {
        "jobs": results,
        "wrong": [
            f"{name}: {what}" for name, result in results.items() for what in result["wrong"]
        ],
        "left_out": missing,
        "reference": "read" if reference else "left out: there is no folder of reference vectors",
        "cut": None if completed and not missing else _why(completed),
    }


def _why(completed: bool) -> str:
    return "a process ended before its time: see log.txt" if completed else "out of time"


def speed(machine: Machine, until: float) -> dict[str, Any]:
    budget, table_path = until - machine.now, machine.work / "speed.txt"
    size = ("--parts", "train-32", "--small") if machine.small else ("--parts", "train-256")
    arguments = (*size, "--budget", f"{budget - 5:.0f}", "--out", str(machine.work / "speed"))
    with table_path.open("wb") as out:
        process = machine.start("gpu.py", *arguments, out=out)
        completed = machine.wait([process], until)
    results = next((machine.work / "speed").glob("gpu-*.json"), None)
    return {
        "figures": None if results is None else json.loads(results.read_text("utf-8")),
        "tables": table_path.read_text("utf-8"),
        "cut": None if completed and process.returncode == 0 else _why(completed),
    }


# --------------------------------------------------------------------------------------- report


class Report:
    """Writes all results so far: `gpu.json`, and `gpu.md` for people."""

    def __init__(self, out: Path):
        self.out, self.found = out, {}

    def save(self) -> None:
        from eqloop._files import write_atomic
        from eqloop._tables import plain

        text = json.dumps(plain(self.found), indent=1) + "\n"
        write_atomic(self.out / "gpu.json", [text.encode()])
        write_atomic(self.out / "gpu.md", [markdown(self.found).encode()])


def markdown(results: Mapping[str, Any]) -> str:
    device = results["device"]
    text = [
        f"# {device['device']}, {results['when']}",
        "",
        f"Driver: {device['driver'] or 'none'}. jax {device['jax']}, jaxlib {device['jaxlib']}, "
        f"Python {device['python']}, {device['cores']} cores. {device['platform_version']}",
        "",
        f"`{results['command']}`",
    ]
    text += [f"\n{part} failed: {why}" for part, why in results.get("failed", {}).items()]
    for part, section in (("right", _right), ("speed", _speed), ("cells", _cells)):
        if (figures := results.get(part)) is not None:
            text += ["", f"## {part}", "", *section(figures)]
    return "\n".join(text) + "\n"


def _right(results: Mapping[str, Any]) -> list[str]:
    jobs = results["jobs"]
    ok = sum(not job["wrong"] for job in jobs.values())
    text = [f"{ok} of {len(jobs)} checks passed; reference vectors: {results['reference']}."]
    text += [f"- wrong: {what}" for what in results["wrong"]]
    if results["cut"]:
        text.append(f"- not done ({results['cut']}): {', '.join(results['left_out']) or 'nothing'}")
    worst: dict[str, float] = {}
    for name, job in jobs.items():
        kind = name.partition(":")[0]
        tables = job.get("errors", {})
        tables = {"": tables} if kind == "step" else tables
        for precision, errors in tables.items():
            for what, error in errors.items():
                key = ", ".join(filter(None, (kind, precision, what)))
                worst[key] = max(worst.get(key, 0.0), error)
    text += ["", "| largest relative error of | |", "|---|---|"]
    return text + [f"| {key} | {error:.1e} |" for key, error in worst.items()]


def _speed(results: Mapping[str, Any]) -> list[str]:
    cut = [f"Not whole: {results['cut']}.", ""] if results["cut"] else []
    return [*cut, "```text", results["tables"].strip("\n"), "```"]


def _cells(results: Sequence[Mapping[str, Any]]) -> list[str]:
    text = [
        "Share solved after so many iterations, in %; the cells of a call share the GPU.",
        "",
        "| task | recall | norm | lr | steps | split (examples) | 32 | 64 | 128 | 256 | last "
        "| best | converged | seconds: train, evaluate, all |",
        "|" + "---|" * 14,
    ]
    for cell in results:
        axes = cell["axes"]
        start = f"| {cell['task']} | {axes['recall']} | {axes['norm']} | {axes['lr']:g} "
        recipe_steps = cell["steps_of_the_recipe"]
        steps = (
            f"{cell['steps']} of {recipe_steps}"
            if recipe_steps not in (None, cell["steps"])
            else cell["steps"]
        )
        start += f"| {steps} "
        if cell["status"] != "finished":
            text.append(start + f"| {cell['status']} |" + " |" * 8)
            continue
        seconds = cell["seconds"]
        for split, curve in cell["curves"].items():
            at = dict(zip(curve["iterations"], curve["exact"], strict=True))
            cells = [f"{100 * at[n]:.1f}" if n in at else "" for n in (32, 64, 128, 256)]
            cells += [f"{100 * curve['exact'][-1]:.1f}", f"{100 * max(curve['exact']):.1f}"]
            cells += [f"{100 * curve['converged'][-1]:.1f}"]
            took = ", ".join(f"{seconds[name]:.0f}" for name in ("train", "evaluate", "wall"))
            text.append(start + f"| {split} ({curve['examples']}) | {' | '.join(cells)} | {took} |")
    return text


# ----------------------------------------------------------------------------------------- main


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all of it")
    parser.add_argument("--parts", default=",".join(SECONDS), help="with commas; default all")
    parser.add_argument(
        "--cells",
        default=",".join(ORDER),
        help="of the part cells, with commas: tasks, or single cells as TASK:RECALL:NORM",
    )
    beside = ROOT.parent / "shared" / "data" / "reference"
    parser.add_argument(
        "--reference", type=Path, default=beside, help="folder of reference vectors"
    )
    parser.add_argument("--sudoku", type=Path, help="CSV file of real sudokus")
    parser.add_argument("--rows", type=int, default=1000, help="evaluated of each split; 0 for all")
    parser.add_argument(
        "--steps", action="append", default=[], metavar="TASK=N", help="fewer steps"
    )
    parser.add_argument("--jobs", type=int, default=3, help="cells that share the GPU")
    parser.add_argument("--small", action="store_true", help="toy sizes of all parts, for a CPU")
    options = parser.parse_args(arguments)
    single = {f"{task}:{':'.join(axes)}": (task, axes) for task in ORDER for axes in ORDER[task]}
    for name, allowed in (("parts", [*SECONDS]), ("cells", [*ORDER, *single])):
        values = getattr(options, name).split(",")
        if unknown := set(values) - set(allowed):
            parser.error(f"--{name}: {', '.join(sorted(unknown))}: known are {', '.join(allowed)}")
        setattr(options, name, [value for value in allowed if value in values])
    cells: dict[str, list[tuple[str, str]]] = {}
    for name, (task, axes) in single.items():
        if task in options.cells or name in options.cells:
            cells.setdefault(task, []).append(axes)
    options.cells = cells
    steps = {}
    for setting in options.steps:
        task, _, number = setting.partition("=")
        if task not in ORDER or not number.isdecimal() or int(number) < 1:
            parser.error(f"--steps {setting}: write TASK=N, TASK one of {', '.join(ORDER)}")
        steps[task] = int(number)
    options.steps = steps
    if options.jobs < 1 or options.rows < 0:
        parser.error("--jobs must be at least 1, --rows at least 0")
    if 60 * options.minutes < 3 * CLOSING:
        parser.error(f"--minutes {options.minutes:g}: must be at least {3 * CLOSING / 60:g}")
    if options.sudoku is not None and not options.sudoku.is_file():
        parser.error(f"--sudoku {options.sudoku}: there is no such file")
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    options.out.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()
    work = Path(tempfile.mkdtemp(prefix="gpu-paper-"))
    machine, report = Machine(work, options.out / "log.txt", options.small), Report(options.out)
    deadlines = plan(options.minutes, options.parts, stretch=options.small)
    for part, until in deadlines.items():
        machine.say(f"plan: {part} until {clock(until)}")
    machine.say(f"plan: everything on disk until {clock(60 * options.minutes)}")
    reference = options.reference.resolve() if any(options.reference.glob("*.npz")) else None
    if "right" in options.parts and reference is None:
        machine.say(f"{options.reference} has no reference vectors: that check is left out")
    if (
        "cells" in options.parts
        and "sudoku" in options.cells
        and not (options.sudoku or options.small)
    ):
        machine.say("without --sudoku FILE there are no real sudokus: those cells are left out")
        del options.cells["sudoku"]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        report.found |= {"when": time.strftime("%Y-%m-%d"), "device": describe(machine)}
        report.found |= {"command": " ".join(sys.argv), "plan": deadlines}
        report.save()
        for part in options.parts:
            began = machine.now
            machine.say(f"{part} begins: until {clock(deadlines[part])}")
            try:
                if part == "right":
                    report.found[part] = right(machine, deadlines[part], reference)
                elif part == "speed":
                    report.found[part] = speed(machine, deadlines[part])
                else:
                    cells = Cells(machine, deadlines[part], options, report)
                    report.found[part] = cells.ended
                    cells.go()
            except Exception as error:  # one part fails; the others still run, since a GPU is rare
                traceback.print_exc()
                report.found.setdefault("failed", {})[part] = f"{type(error).__name__}: {error}"
                end(machine.started, CLOSING / 2)
            report.found.setdefault("seconds", {})[part] = machine.now - began
            report.save()
            machine.say(f"{part} is over: {options.out} has it")
    finally:
        machine.close()
    print(markdown(report.found))
    machine.say("all is on disk")
    errors = report.found.get("right", {}).get("wrong", [])
    failed = [e for e in report.found.get("cells", []) if e["status"].startswith("failed")]
    return 1 if errors or failed or "failed" in report.found else 0


if __name__ == "__main__":
    sys.exit(main())
