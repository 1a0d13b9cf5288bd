"""Which leaves of a pytree a checkpoint stores, and their names in it."""

from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np


def is_array(leaf: object) -> bool:
    """Whether `leaf` is an array, or stands for one by its shape and dtype."""
    return isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))


def named_arrays(tree: Any) -> dict[str, Any]:
    """The array leaves of a pytree by their dotted paths."""
    return {
        jtu.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jtu.tree_leaves_with_path(tree)
        if is_array(leaf)
    }
