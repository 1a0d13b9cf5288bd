"""Numbers that a compiled program takes as arguments and that no optimiser trains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer


def setting(default: float) -> Any:
    """A field of a module for a number that is a value of a compiled program, but no parameter.

    Another value compiles no other program. The number is stored as integers, its bits: so filters
    for inexact arrays leave it out (`eqx.filter_grad`, an optimiser's state, weight decay, counts
    of parameters), and no gradient passes through it, not even where the number that is given is
    traced. Reading the field gives the number: a float, or where it is traced an array.
    """
    return _Setting(default)


def check_not_negative(module: Any, *names: str) -> None:
    """**Raises** `ValueError` where one of these settings is negative or nan, unless it is
    traced."""
    for name in names:
        value = getattr(module, name)
        if isinstance(value, float | np.ndarray) and not np.all(value >= 0):
            raise ValueError(f"{type(module).__name__}: {name} = {value} must be at least 0")


class _Bits(NamedTuple):
    """The words of a float64, and the nearest float32: the program has one or the other, as
    `jax_enable_x64` says when it is traced."""

    high: Any
    low: Any
    single: Any


class _TracedBits(NamedTuple):
    """A number that was traced when it was given: of one precision."""

    bits: Any


class _Setting:
    # A data descriptor: Equinox takes what is in `__dict__` for the leaves of a module, and sets
    # attributes when it makes one of new leaves.

    def __init__(self, default: float):
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        # A dataclass asks the class for the default.
        return self.default if module is None else _number(vars(module)[self.name])

    def __set__(self, module: Any, value: Any) -> None:
        given = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
        vars(module)[self.name] = _encode(value) if given else value


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
        return bits  # a tree of shapes, say, or one in which `eqx.tree_at` looks for a place
    if any(not jnp.issubdtype(word.dtype, jnp.unsignedinteger) for word in words):
        kinds = ", ".join(str(word.dtype) for word in words)
        raise TypeError(
            f"the bits of a setting have become {kinds}: map over the inexact arrays of a module "
            "only (eqx.is_inexact_array)"
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
