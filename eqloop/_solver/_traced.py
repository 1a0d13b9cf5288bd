"""Fields for numbers that are runtime inputs of a compiled program, but not parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer


def traced_int(value: Any) -> Any:
    """Field converter: wrap a Python integer in a NumPy scalar, so that `eqx.filter_jit` traces it
    and changing it does not recompile."""
    return np.int32(value) if isinstance(value, int) else value


def traced_float(default: float) -> Any:
    """A field of an Equinox module for a number that `jax.jit` traces and no optimiser trains.

    Changing the number does not recompile. It is stored as integers, its bits, so that filters for
    inexact arrays skip it (`eqx.filter_grad`, an optimiser's state, weight decay, parameter
    counts), and no gradient passes through it, even if the number assigned is traced. Reading the
    field returns the number: a float, or an array if it is traced.

    **Arguments:**

    - `default`: the field's default value.
    """
    return _TracedFloat(default)


def check_not_negative(module: Any, *names: str) -> None:
    """**Raises** `ValueError` if one of these fields is negative or NaN. Traced values are not
    checked."""
    for name in names:
        value = getattr(module, name)
        if isinstance(value, float | np.ndarray) and not np.all(value >= 0):
            raise ValueError(f"{type(module).__name__}: {name} = {value} must be at least 0")


class _Bits(NamedTuple):
    """The two words of a float64, and the nearest float32. `jax_enable_x64` decides at tracing
    which of the two the program reads."""

    high: Any
    low: Any
    single: Any


class _TracedBits(NamedTuple):
    """The bits of a number that was traced when assigned: it has one precision."""

    bits: Any


class _TracedFloat:
    # A data descriptor: Equinox reads the leaves of a module from `__dict__`, and sets attributes
    # when it rebuilds a module from leaves.

    def __init__(self, default: float):
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        # A dataclass reads the default from the class.
        return self.default if module is None else _number(vars(module)[self.name])

    def __set__(self, module: Any, value: Any) -> None:
        is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
        vars(module)[self.name] = _encode(value) if is_number else value


def _encode(value: Any) -> _Bits | _TracedBits:
    if isinstance(value, Tracer):
        value = value.astype(jnp.float64 if value.dtype == jnp.float64 else jnp.float32)
        return _TracedBits(jax.lax.bitcast_convert_type(value, f"uint{8 * value.dtype.itemsize}"))
    double = np.asarray(value).astype(np.float64)
    with np.errstate(over="ignore"):
        single = double.astype(np.float32).view(np.uint32)
    word = double.view(np.uint64)
    low = word.astype(np.uint32)  # modulo 2^32
    return _Bits(high=(word >> 32).astype(np.uint32)[()], low=low[()], single=single[()])


def _number(bits: Any) -> Any:
    words = jtu.tree_leaves(bits)
    if not all(isinstance(word, np.generic | np.ndarray | jax.Array) for word in words):
        return bits  # a tree of shapes, or one of the sentinels of `eqx.tree_at`
    if any(not jnp.issubdtype(word.dtype, jnp.unsignedinteger) for word in words):
        kinds = ", ".join(str(word.dtype) for word in words)
        raise TypeError(
            f"the bits of a traced_float have become {kinds}: map over the inexact arrays of a "
            "module only (eqx.is_inexact_array)"
        )
    if isinstance(bits, _TracedBits):
        return jax.lax.bitcast_convert_type(bits.bits, f"float{8 * bits.bits.dtype.itemsize}")
    if not any(isinstance(word, Tracer) for word in words):
        high, low = (np.asarray(word).astype(np.uint64) for word in (bits.high, bits.low))
        number = np.asarray(high << 32 | low).view(np.float64)
        return number if number.ndim else number.item()
    if jnp.result_type(float) == jnp.float64:
        pair = jnp.stack([bits.low, bits.high], -1)
        return jax.lax.bitcast_convert_type(pair, jnp.float64)
    return jax.lax.bitcast_convert_type(bits.single, jnp.float32)
