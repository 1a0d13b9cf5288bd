"""Where a run is computed: on one device, on all of one process, or on those of several processes.

Training is data-parallel: the batch and its carried states are cut along their first axis,
everything else lies on every device, and the compiler sums the gradients over the devices. Which
examples and which random numbers a step sees does not depend on the devices; its sums are rounded
in another order.
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
    """All devices that there are, in one row along the batch.

    With one device nothing is placed anywhere, and the programs are those of a single device.

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
        # Explicit axes, the default, are not known to Optimistix.
        self.mesh = jax.make_mesh((self.count,), ("batch",), axis_types=(AxisType.Auto,))

    @property
    def everywhere(self) -> NamedSharding | None:
        """A copy on every device; None where there is one."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def copy(self, tree: PyTree) -> PyTree:
        """Each array, equal in all processes, on every device."""
        everywhere = self.everywhere
        if everywhere is None:
            return tree
        return jax.tree.map(lambda x: _place(x, everywhere) if is_array(x) else x, tree)

    def split(self, tree: PyTree) -> PyTree:
        """Each device's share of arrays whose first axis is the batch; all processes have them
        whole."""
        everywhere = self.everywhere
        if everywhere is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.tree.map(lambda x: _place(x, along_batch(everywhere)), tree)

    def here(self, tree: PyTree) -> PyTree:
        """What `copy`, `split` or a step left on the devices, whole on one device of this process:
        nothing computed from it waits for another device. All processes call it together."""
        if self.mesh is None:
            return tree

        def whole(x: Array) -> Array:
            if not x.is_fully_replicated:
                x = _copied(self.everywhere)(x)
            return x.addressable_data(0)

        return jax.tree.map(lambda x: whole(x) if is_array(x) else x, tree)

    def largest(self, number: int) -> Array | int:
        """The largest `number` that any process gives. Nothing waits for it until it is read."""
        if not is_multiprocess():
            return number
        assert self.everywhere is not None
        each = jax.make_array_from_callback(
            (self.count,), along_batch(self.everywhere), lambda where: np.full(1, number, np.int32)
        )
        return _largest(self.everywhere)(each)


def along_batch(everywhere: NamedSharding) -> NamedSharding:
    """On the devices of `everywhere`, each its share of the first axis."""
    return NamedSharding(everywhere.mesh, PartitionSpec("batch"))


@functools.cache
def _largest(everywhere: NamedSharding | None) -> Callable[[Array], Array]:
    return jax.jit(jnp.max, out_shardings=everywhere)


@functools.cache
def _copied(everywhere: NamedSharding | None) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=everywhere)


def _place(array: Any, sharding: NamedSharding) -> Array:
    host = np.asarray(array)
    # Copies: the training step reuses the memory of the state it is given.
    return jax.make_array_from_callback(host.shape, sharding, lambda where: np.array(host[where]))
