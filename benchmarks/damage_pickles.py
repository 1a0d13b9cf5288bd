"""Can a pickle in a checkpoint of PyTorch do anything but give tensors or be refused?

    python benchmarks/damage_pickles.py [--programs 4000] [--seed 0]

**Question:** `data.pkl` of a checkpoint is changed at one to sixteen places: bytes are replaced,
removed or copied, instructions inserted. The CRC-32 is that of the result, so that only the reader
of pickles stands between the program and its effect. Each program must be read, and then make a
checkpoint or none, or be refused in one line: no other exception, and none takes seconds.

**Last numbers:** see LOG.md.
"""

import argparse
import collections
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTRUCTIONS = b"(.0123FIJKLMNPQRSTUVXabcdeghijloprstu}q])" + bytes(range(0x80, 0x96))
LONGEST = 2.0
"""Seconds of CPU after which reading a program counts as a hang."""
ARCH = {"H_cycles": 3, "L_cycles": 6, "halt_max_steps": 16, "num_heads": 2, "seq_len": 12}
ARCH |= {"pos_encodings": "rope", "puzzle_emb_len": 2}


def changed(program: bytes, rng: random.Random) -> bytes:
    """The program with some of its bytes changed."""
    code = bytearray(program)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place, kind = rng.randrange(len(code)), rng.random()
        if kind < 0.5:
            code[place] = rng.randrange(256)
        elif kind < 0.65:
            del code[place : place + rng.choice([1, 2, 8, 64])]
        elif kind < 0.8:
            code[place:place] = rng.choices(INSTRUCTIONS, k=rng.choice([1, 2, 4]))
        else:
            start = rng.randrange(len(code))
            code[place:place] = code[start : start + rng.choice([4, 16, 64])]
        code = code or bytearray(b".")
    return bytes(code)


def outcomes(programs: int, seed: int, folder: Path) -> Iterator[tuple[str, str]]:
    """For each program "read", "refused" or a fault ("many lines", "slow", or the name of an
    exception), and the message."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch_layout  # pyright: ignore[reportMissingImports]

    rng = random.Random(seed)
    params, buffers = torch_layout.arrays_of("trm", width=8, cells=4)
    saved: list[Any] = [torch_layout.trained(params | buffers)]
    saved += [torch_layout.of_eqr(params, buffers, ARCH)]
    pickled = [torch_layout.pickled(part) for part in saved]
    for _ in range(programs):
        program, storages = rng.choice(pickled)
        content = torch_layout.records(changed(program, rng), storages)
        path = torch_layout.write_records(folder / "step_1", content)
        began = time.process_time()
        outcome, text = read(path)
        yield ("slow" if time.process_time() - began > LONGEST else outcome), text


def read(path: Path) -> tuple[str, str]:
    from eqloop import InputError
    from eqloop.interop import read_weights, sibling_checkpoint

    try:
        content = read_weights(path)
        sibling_checkpoint(content, "trm", config=ARCH)
    except InputError as error:
        text = str(error)
        return ("refused" if "\n" not in text and len(text) < 600 else "many lines"), text
    except Exception as error:
        return type(error).__name__, str(error)
    return "read", ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--programs", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        for outcome, text in outcomes(options.programs, options.seed, Path(name)):
            counts[outcome] += 1
            if outcome not in ("read", "refused"):
                print(f"{outcome}: {text}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return 0 if counts.keys() <= {"read", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
