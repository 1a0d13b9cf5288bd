"""The states of the loops: pytrees with named parts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class TwoLevels(NamedTuple):
    """The state of TRM, HRM and EqR.

    **Attributes:**

    - `z_H`: the high level, which the heads read, shape `(positions, width)`.
    - `z_L`: the low level, which sees the input, of the same shape.
    """

    z_H: Float[Array, "*batch positions width"]
    z_L: Float[Array, "*batch positions width"]


class LowLevel(NamedTuple):
    """The state of TRM with one level.

    **Attributes:**

    - `z_L`: the state, shape `(positions, width)`.
    """

    z_L: Float[Array, "*batch positions width"]


class OneState(NamedTuple):
    """The state of FPRM.

    **Attributes:**

    - `z`: the state, shape `(positions, width)`.
    """

    z: Float[Array, "*batch positions width"]


State = TwoLevels | LowLevel | OneState


def answer(state: State) -> Float[Array, "*batch positions width"]:
    """The part that the heads read: the first."""
    return state[0]


def as_state(kind: type[State], parts: Any, dtype: DTypeLike) -> State:
    """A state of this kind in this precision, from a mapping name -> array, from the arrays in
    order, or from the only array.

    **Raises** `ValueError` for other parts than those of the kind.
    """
    names = kind._fields
    if isinstance(parts, Mapping):
        parts = {name: parts[name] for name in parts}
    elif hasattr(parts, "ndim") and len(names) == 1:
        parts = {names[0]: parts}
    else:
        parts = dict(zip(names, parts, strict=len(names) == len(parts)))
    if set(parts) != set(names):
        raise ValueError(f"starts has {', '.join(parts)}: the state has {', '.join(names)}")
    return kind(**{name: jnp.asarray(part, dtype) for name, part in parts.items()})
