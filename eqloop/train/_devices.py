"""Devices of a run: one device, all devices of one process, or those of several processes.

Training is data-parallel: the batch and its carried states are sharded along their first axis,
everything else is replicated, and the compiler sums the gradients over the devices. The examples
and random numbers of a step do not depend on the devices; sums are rounded in another order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from .._arrays import is_array
from .._errors import InputError
from ._processes import is_multiprocess


class Devices:
    """All available devices, in one mesh axis along the batch.

    With one device arrays have no sharding, and programs are those of a single device.

    **Raises** `InputError` for a batch that does not divide evenly among them.
    """

    def __init__(self, batch: int):
        self.count = jax.device_count()
        self.mesh: Mesh | None = None
        if self.count == 1:
            return
        if batch % self.count:
            below = batch - batch % self.count
            near = " or ".join(str(n) for n in (below, below + self.count) if n)
            raise InputError(
                f"train.batch = {batch} does not divide evenly among {self.count} devices: --set "
                f"train.batch={near}, or let fewer be seen (CUDA_VISIBLE_DEVICES)"
            )
        # Optimistix does not support explicit axes, the default.
        self.mesh = jax.make_mesh((self.count,), ("batch",), axis_types=(AxisType.Auto,))

    @property
    def everywhere(self) -> NamedSharding | None:
        """The sharding of a copy on every device; None for one device."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def copy(self, tree: PyTree) -> PyTree:
        """Copy each array, which all processes have, to every device."""
        everywhere = self.everywhere
        if everywhere is None:
            return tree
        return jax.tree.map(lambda x: _place(x, everywhere) if is_array(x) else x, tree)

    def split(self, tree: PyTree) -> PyTree:
        """Shard arrays along their first axis, the batch; each process has the whole arrays."""
        everywhere = self.everywhere
        if everywhere is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.tree.map(lambda x: _place(x, along_batch(everywhere)), tree)

    def here(self, tree: PyTree) -> PyTree:
        """The whole arrays on one device of this process; computing with them needs no
        communication. All processes must call this together."""
        if self.mesh is None:
            return tree

        def whole(x: Array) -> Array:
            if not x.is_fully_replicated:
                x = _copied(self.everywhere)(x)
            return x.addressable_data(0)

        return jax.tree.map(lambda x: whole(x) if is_array(x) else x, tree)

    def largest(self, number: int) -> Array | int:
        """The maximum of `number` over all processes; it is computed asynchronously."""
        if not is_multiprocess():
            return number
        assert self.everywhere is not None
        numbers = jax.make_array_from_callback(
            (self.count,), along_batch(self.everywhere), lambda where: np.full(1, number, np.int32)
        )
        return _largest(self.everywhere)(numbers)


def along_batch(everywhere: NamedSharding) -> NamedSharding:
    """Shard along the first axis, on the devices of `everywhere`."""
    return NamedSharding(everywhere.mesh, PartitionSpec("batch"))


@functools.cache
def _largest(everywhere: NamedSharding | None) -> Callable[[Array], Array]:
    return jax.jit(jnp.max, out_shardings=everywhere)


@functools.cache
def _copied(everywhere: NamedSharding | None) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=everywhere)


def _place(array: Any, sharding: NamedSharding) -> Array:
    host = np.asarray(array)
    # Copy: the training step donates its state.
    return jax.make_array_from_callback(host.shape, sharding, lambda where: np.array(host[where]))
