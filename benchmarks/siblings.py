"""Compare TRM, HRM, EqR and FPRM with the vectors of their authors' code: file x quantity.

Each number is the largest difference over all segments, in units of the largest entry. The
quantities that must agree exactly are counted: the entries that differ.

    uv run python benchmarks/siblings.py [--data ../shared/data/siblings] [NAME ...]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from eqloop.interop import from_sibling_state_dict, to_sibling_state_dict

KINDS = ("trm", "hrm", "eqr", "fprm")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "siblings"
COLUMNS = ("state", "logits", "q", "loss", "residual", "gradient", "float32", "halting")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="files; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the files")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    paths = sorted(p for p in options.data.glob("*.npz") if p.stem.split("_")[0] in KINDS)
    paths = [p for p in paths if not options.names or p.stem in options.names]
    if not paths:
        parser.error(f"{options.data} has no such files: give --data")
    print(f"{'file':24}" + "".join(f"{name:>10}" for name in COLUMNS))
    for path in paths:
        worst = compare(path)
        cells = (f"{worst[c]:10.0e}" if c in worst else f"{'-':>10}" for c in COLUMNS[:-1])
        print(f"{path.stem:24}" + "".join(cells) + f"{int(worst['halting']):10d}", flush=True)


def compare(path: Path) -> dict[str, float]:
    data = np.load(path)
    model = from_sibling_state_dict(
        path.stem.split("_")[0],  # pyright: ignore[reportArgumentType]
        with_prefix(data, "param."),
        buffers=with_prefix(data, "buffer."),
        config=json.loads(str(data["config"])),
    )
    worst: dict[str, float] = {"halting": 0}

    def note(column: str, ours: Any, theirs: Any) -> None:
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert a.shape == b.shape, (path.stem, column)
        if column == "halting":
            worst[column] += np.sum(np.abs(a - b) > 1e-15)
        else:
            error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)
            worst[column] = max(worst.get(column, 0), float(error))

    carry = model.start(at(data, "inputs", 1), at(data, "puzzle_identifiers", 1))
    for segment in range(1, sum(key.startswith("loss_") for key in data) + 1):
        batch = [at(data, key, segment) for key in ("inputs", "labels", "puzzle_identifiers")]
        starts = {
            key[6:-2]: data[key]
            for key in data
            if key.startswith("start_") and key.endswith(f"_{segment}")
        }
        noise = data["noise"][segment - 1] if "noise" in data else None
        if segment == data["grad_segment"]:
            for key, slope in gradients(model, carry, batch, noise, starts).items():
                if (wanted := data.get(f"grad.{key}")) is not None:
                    column = "gradient" if wanted.dtype == np.float64 else "float32"
                    note(column, slope, wanted)
        carry, out = model.segment(carry, *batch, noise, starts or None)
        for part in carry.state._fields:
            note("state", getattr(carry, part), data[f"{part}_{segment}"])
        for column, keys in {
            "logits": ("logits",),
            "q": ("q_halt", "q_continue", "target_q_continue"),
            "loss": ("loss", "lm_loss", "q_halt_loss", "q_continue_loss"),
            "halting": ("halted", "steps"),
        }.items():
            for key in keys:
                if f"{key}_{segment}" in data:
                    note(column, getattr(out, key), data[f"{key}_{segment}"])
        for key in ("inputs", "labels"):
            if f"current.{key}_{segment}" in data:
                note("halting", getattr(carry.current, key), data[f"current.{key}_{segment}"])
        if "residual" in data:
            for key in ("residual", "best_residual"):
                note("residual", getattr(out, key), data[key][segment - 1])
            for key in ("step_size", "patience"):
                note("halting", getattr(out, key), data[key][segment - 1])
    return worst


def gradients(model: Any, carry: Any, batch: Any, noise: Any, starts: Any) -> dict[str, Any]:
    vectors = model.puzzle_vectors(model.offered(carry, *batch).puzzle_identifiers)

    def loss(differentiated: Any) -> Any:
        model, vectors = differentiated
        _, out = model.segment(carry, *batch, noise, starts or None, puzzle_vectors=vectors)
        return out.loss

    slope, by_row = eqx.filter_jit(eqx.filter_grad(loss))((model, vectors))
    return {**to_sibling_state_dict(slope)[0], "puzzle_emb.local_weights": by_row}


def with_prefix(data: Any, prefix: str) -> dict[str, np.ndarray]:
    """In float64: a gradient has the dtype of its weight."""
    return {k.removeprefix(prefix): data[k].astype(float) for k in data if k.startswith(prefix)}


def at(data: Any, name: str, segment: int) -> Any:
    return data[key] if (key := f"{name}_{segment}") in data else data[name]


if __name__ == "__main__":
    main()
