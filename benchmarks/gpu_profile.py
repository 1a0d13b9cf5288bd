"""Where the time of a training step goes on a GPU: its kernels, by total time.

    python benchmarks/gpu_profile.py --out OUT                # width 256, the paper's sudoku recipe
    python benchmarks/gpu_profile.py --out OUT --small        # rehearsal on a CPU

`profile.json` holds, for each kernel, how often it ran in a step and its milliseconds, and the
share of the step in which no kernel ran. `program.txt.gz` is the compiled program of the step:
kernels are named after its instructions.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

TRACED = 4
"""Steps in the trace."""


def kernels(trace: Path) -> dict[str, list[float]]:
    """Return the milliseconds of each run of each kernel, from the lines of the trace that are GPU
    streams; on a CPU, from the lines of its threads."""
    import jax

    (path,) = trace.rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    took = defaultdict(list)
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                took[event.name].append(event.duration_ns / 1e6)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--small", action="store_true", help="toy sizes, for a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="gpu-profile-"))
    dump = f"--xla_dump_to={folder / 'dump'} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), dump)))

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from gpu import SMALL, Size, make_problem, spec_and_task

    from eqloop.train import init_state, make_step
    from eqloop.train._step import Data

    size, width = (SMALL, 32) if options.small else (Size(), options.width)
    needs = make_problem(folder, size, width)
    arrays = dict(np.load(folder / "problem.npz"))
    spec, task = spec_and_task(size, width)
    data = Data(jnp.asarray(arrays["tokens"]), jnp.asarray(arrays["answers"]))
    step, state = make_step(spec, task), init_state(spec)

    def run(state: Any) -> Any:
        state = eqx.tree_at(lambda s: s.step, state, jnp.zeros((), jnp.int32))
        for index in arrays["index"][:TRACED]:
            state, _ = step(data, state, index)
        return jax.block_until_ready(state)

    state = run(run(state))
    with jax.profiler.trace(str(folder / "trace")):
        start = time.perf_counter()
        state = run(state)
        wall = (time.perf_counter() - start) * 1e3 / TRACED
    durations_of = kernels(folder / "trace")
    table = [
        {
            "kernel": name,
            "runs": len(durations) / TRACED,
            "ms": sum(durations) / TRACED,
            "median_us": 1e3 * float(np.median(durations)),
        }
        for name, durations in durations_of.items()
    ]
    table.sort(key=lambda row: -row["ms"])
    results = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "width": width,
        "batch": size.batch,
        "needs": needs,
        "wall_ms": wall,
        "kernels_ms": sum(row["ms"] for row in table),
        "kernels": table,
    }
    (options.out / "profile.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    programs = (folder / "dump").glob("*after_optimizations.txt")
    largest = max(programs, key=lambda path: path.stat().st_size)
    (options.out / "program.txt.gz").write_bytes(gzip.compress(largest.read_bytes()))
    print(f"{results['device']}: {wall:.1f} ms a step, {results['kernels_ms']:.1f} ms of kernels")
    for row in table[:30]:
        print(
            f"{row['ms']:8.3f} ms  {row['runs']:7.1f} x {row['median_us']:8.1f} us  {row['kernel']}"
        )


if __name__ == "__main__":
    sys.exit(main())
