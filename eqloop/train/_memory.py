"""Whether a run fits into memory: told from its spec, before anything is made."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path

import equinox as eqx
import jax

from .._build import make_model
from .._errors import InputError
from .._model import parameter_count
from ..run import ModelSpec, Spec, gradient_facts, solver_facts

VARIABLE = "EQLOOP_MEMORY_CHECK"
"""Environment variable that turns the check off: `EQLOOP_MEMORY_CHECK=off`."""

_HOST = "this machine"
_EXAMPLE = 3
"""Bytes of an example for each of its cells: token, target and puzzle."""
_FLOAT = 4
"""Bytes of a number: weights, optimiser and states are float32 at every precision."""


def check_memory(
    spec: Spec,
    devices: int = 1,
    *,
    what: str = "training",
    remedy: str = "make the model, train.batch or the task smaller",
) -> None:
    """**Raises** `InputError` where training takes more memory than there is, saying how much.

    What it takes is estimated from below (see `memory_needed`), so that no run is refused that
    would fit; one that is let pass may still be too large.

    **Arguments:**

    - `devices`: over how many the batch is spread; each holds a copy of the weights.
    - `what`, `remedy`: what the spec stands for, where that is not training, and what to lower.
    """
    if not _checked():
        return
    limit, where = _limit()
    # Devices without memory of their own are parts of the host.
    copies = jax.local_device_count() if where == _HOST else 1
    for stage in spec.stages:
        needed = memory_needed(stage.spec, devices)
        parts = {name: copies * size for name, size in needed.items()}
        _refuse_more_than(limit, where, parts, what, remedy)


def check_examples(rows: int, grid: tuple[int, ...]) -> None:
    """**Raises** `InputError` where so many examples of a task do not fit into this machine."""
    if _checked():
        parts = {"the data": _EXAMPLE * rows * math.prod(grid)}
        remedy = "make fewer or smaller examples"
        _refuse_more_than(_host_limit(), _HOST, parts, "making this set", remedy)


def _checked() -> bool:
    return os.environ.get(VARIABLE, "").lower() not in ("off", "0", "false")


def _refuse_more_than(
    limit: int | None, where: str, parts: Mapping[str, int], what: str, remedy: str
) -> None:
    if limit is not None and sum(parts.values()) > limit:
        listed = ", ".join(f"{_size(size)} for {name}" for name, size in parts.items())
        total = _size(sum(parts.values()))
        raise InputError(
            f"{what} needs at least {total} of memory ({listed}), and {where} has "
            f"{_size(limit)}: {remedy}, or set {VARIABLE}=off in the environment to try it all "
            "the same"
        )


def memory_needed(spec: Spec, devices: int = 1) -> dict[str, int]:
    """Bytes on each device, estimated from below, by what they are for: weights, gradient and
    optimiser; for one step the states that it keeps and the inside of a block, and half as much
    again for copies; carried states; examples that a generator makes.

    XLA reserved 1.2 to 3 times as much for twelve specs of two tasks, those of the paper among
    them.
    """
    state = _cells(spec) * spec.model.width
    rows, numbers = -(-spec.train.batch // devices), _states(spec) * state + _numbers(spec)
    return {
        "weights and optimiser": _weights(spec),
        "one step": 3 * _FLOAT * rows * numbers // 2,
        **({"carried states": _FLOAT * rows * state} if spec.carries else {}),
        "the data": _data(spec),
    }


def _data(spec: Spec) -> int:
    """Of the examples that are generated (how many a file has is not known before it is read), by
    the fields of the task whose names end in "rows" and "length": the shortest split may be the
    one of the longest examples."""
    if spec.task.get("data"):
        return 0
    rows = [value for name, value in spec.task.items() if name.endswith("rows") and value > 0]
    lengths = [value for name, value in spec.task.items() if name.endswith("length")]
    return _EXAMPLE * (_cells(spec) * sum(rows) + min(rows, default=0) * max(lengths, default=0))


def _weights(spec: Spec) -> int:
    """Weights, gradient, two moments, and the average where there is one."""
    copies = 5 if spec.train.ema else 4
    return _FLOAT * copies * _parameters(spec.model)


def _parameters(model: ModelSpec) -> int:
    """Of one and of two blocks, and by that of any number: tracing takes time for each."""

    def count(blocks: int) -> int:
        few = dataclasses.replace(model, blocks=blocks)
        return parameter_count(eqx.filter_eval_shape(make_model, few, jax.random.key(0)))

    one = count(1)
    return one + (model.blocks - 1) * (count(2) - one if model.blocks > 1 else 0)


def _cells(spec: Spec) -> int:
    return math.prod(spec.model.grid)


def _states(spec: Spec) -> int:
    """How many states of the loop a step keeps at least: by the forward solve or for the backward
    pass, whichever is more; they are not there at the same time."""
    solver = spec.solver
    history = solver_facts(solver.name).history(solver)
    # Of an iteration that is differentiated: its state, and the two branches of each block.
    kept = 1 + 2 * spec.model.blocks
    # Those that are kept beside the others: the starts, whose embeddings are mixed in, and those of
    # corrections.
    beside = solver.start != "embed"
    beside += spec.train.correction_states if spec.train.correction else 0
    return beside + max(history, gradient_facts(solver.gradient).states(solver, kept, history))


def _numbers(spec: Spec) -> int:
    """Numbers of one example inside one block: its hidden layer, and the scores of attention or
    the neighbours of each cell."""
    model, cells = spec.model, _cells(spec)
    if isinstance(model.attention, int):
        attended = 2 * cells * model.attention ** len(model.grid) * model.width
    else:
        attended = model.heads * cells**2
    return model.mlp_ratio * cells * model.width + attended


def _limit() -> tuple[int | None, str]:
    """Bytes of a device of this process, or of the machine where devices have none of their own;
    None where that cannot be told."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"], "a device"
    return _host_limit(), _HOST


def _host_limit() -> int | None:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
    with contextlib.suppress(OSError, ValueError):  # a container may have less
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return total


def _size(count: int) -> str:
    """Bytes with a unit and three digits."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.3g} {units[power]}"
