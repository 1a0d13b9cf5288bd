"""Sweeps: a grid of runs in one file, done by any number of processes and machines.

Importing this package loads no JAX; only counting operations and working on cells does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._folder import Sweep as Sweep
from ._folder import create_sweep as create_sweep
from ._folder import is_up_to_date as is_up_to_date
from ._folder import open_sweep as open_sweep
from ._folder import plan_sweep as plan_sweep
from ._grid import Cell as Cell
from ._grid import Classes as Classes
from ._grid import EvaluateSpec as EvaluateSpec
from ._grid import Grid as Grid
from ._grid import grids as grids
from ._grid import read_grid as read_grid
from ._local import run_local as run_local
from ._local import stop_with_parent as stop_with_parent
from ._slurm import submit as submit

if TYPE_CHECKING:
    from ._cost import Cost as Cost
    from ._cost import count as count
    from ._estimate import flops as flops
    from ._estimate import measure_rate as measure_rate
    from ._worker import work as work

_WITH_JAX = {
    **dict.fromkeys(("Cost", "count"), "_cost"),
    **dict.fromkeys(("flops", "measure_rate"), "_estimate"),
    "work": "_worker",
}
"""Name -> its module."""


def __getattr__(name: str) -> Any:
    if name not in _WITH_JAX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WITH_JAX[name]}", __name__), name)
