"""Estimate from a spec whether a run fits into memory, before anything is allocated."""

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
"""Bytes per cell of an example: token, target and puzzle."""
_FLOAT = 4
"""Bytes per number: weights, optimiser and states are float32 at every precision."""


def check_memory(
    spec: Spec,
    devices: int = 1,
    *,
    what: str = "training",
    remedy: str = "make the model, train.batch or the task smaller",
) -> None:
    """Refuse a training that needs more memory than there is.

    The estimate is a lower bound (see `memory_needed`): a run that would fit is never refused, but
    an accepted run may still be too large. `EQLOOP_MEMORY_CHECK=off` turns the check off.

    **Arguments:**

    - `spec`: the spec of the run.
    - `devices`: number of devices that share the batch; each has a copy of the weights.
    - `what`: what the spec describes, for the message.
    - `remedy`: the settings to lower, for the message.

    **Raises** `InputError`, which says how many bytes each part needs.

    ```python
    >>> import dataclasses, eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> eqloop.train.check_memory(spec)
    >>> large = dataclasses.replace(spec, train=eqloop.run.TrainSpec(batch=2**31 - 1))
    >>> try:
    ...     eqloop.train.check_memory(large)
    ... except eqloop.InputError as error:
    ...     print(str(error).partition(" at least")[0])
    training needs

    ```
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
    """Refuse examples of a task that do not fit into memory.

    **Arguments:**

    - `rows`: number of examples.
    - `grid`: number of cells along each axis.

    **Raises** `InputError`, which says how many bytes they need.

    ```python
    >>> import eqloop
    >>> eqloop.train.check_examples(1000, (9, 9))
    >>> try:
    ...     eqloop.train.check_examples(10**15, (9, 9))
    ... except eqloop.InputError as error:
    ...     print(str(error).partition(" (")[0])
    making this set needs at least 216 PiB of memory

    ```
    """
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
    """A lower bound of the bytes on each device, by purpose: weights, gradient and optimiser; the
    stored states of one step and the inside of a block, and half of that for copies; carried
    states; generated examples.

    XLA reserved 1.2 to 3 times as much for twelve specs of two tasks, including those of the
    paper.

    **Arguments:**

    - `spec`: the spec of the run.
    - `devices`: number of devices that share the batch.

    **Returns** purpose -> number of bytes.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> list(eqloop.train.memory_needed(spec))
    ['weights and optimiser', 'one step', 'the data']

    ```
    """
    state = math.prod(spec.model.state_shape)
    rows, numbers = -(-spec.train.batch // devices), _states(spec) * state + _numbers(spec)
    return {
        "weights and optimiser": _weights(spec),
        "one step": 3 * _FLOAT * rows * numbers // 2,
        **({"carried states": _FLOAT * rows * state} if spec.carries else {}),
        "the data": _data(spec),
    }


def _data(spec: Spec) -> int:
    """Bytes of generated examples, from the fields of the task whose names end in "rows" and
    "length": the smallest split may have the longest examples. The size of a file is unknown before
    it is read."""
    if spec.task.get("data"):
        return 0
    rows = [value for name, value in spec.task.items() if name.endswith("rows") and value > 0]
    lengths = [value for name, value in spec.task.items() if name.endswith("length")]
    return _EXAMPLE * (_cells(spec) * sum(rows) + min(rows, default=0) * max(lengths, default=0))


def _weights(spec: Spec) -> int:
    """Bytes of weights, gradient, two moments, and the average if there is one."""
    copies = 5 if spec.train.ema else 4
    return _FLOAT * copies * _parameters(spec.model)


def _parameters(model: ModelSpec) -> int:
    """The parameter count, extrapolated from one and two blocks, since tracing more takes time."""

    def count(blocks: int) -> int:
        few = dataclasses.replace(model, blocks=blocks)
        return parameter_count(eqx.filter_eval_shape(make_model, few, jax.random.key(0)))

    one = count(1)
    return one + (model.blocks - 1) * (count(2) - one if model.blocks > 1 else 0)


def _cells(spec: Spec) -> int:
    return math.prod(spec.model.grid)


def _states(spec: Spec) -> int:
    """The minimum number of states of the loop that a step stores: for the forward solve or for the
    backward pass, whichever is more, since they do not exist at the same time."""
    solver = spec.solver
    history = solver_facts(solver.name).history(solver)
    # A differentiated iteration stores its state and the two branches of each block, and where
    # products are kept the hidden layer, and query, key and value.
    products = spec.model.mlp_ratio + 3 * (spec.model.mixer == "attention")
    in_a_block = 2 + products * (solver.gradient_keep == "products")
    per_iteration = 1 + in_a_block * spec.model.blocks
    # Those that are kept beside the others: the starts, whose embeddings are mixed in, and those of
    # corrections.
    beside = solver.start != "embed"
    beside += spec.train.correction_states if spec.train.correction else 0
    return beside + max(
        history, gradient_facts(solver.gradient).states(solver, per_iteration, history)
    )


def _numbers(spec: Spec) -> int:
    """Number of values of one example inside one block: its hidden layer, and the attention scores
    or the neighbours of each cell."""
    model, cells = spec.model, _cells(spec)
    if isinstance(model.attention, int):
        attended = 2 * cells * model.attention ** len(model.grid) * model.width
    else:
        attended = model.heads * cells**2
    return model.mlp_ratio * cells * model.width + attended


def _limit() -> tuple[int | None, str]:
    """Memory of a device of this process in bytes, or of the machine for devices without their own
    memory; None if it is unknown."""
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
