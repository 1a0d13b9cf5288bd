"""Sweeps: a grid of runs in one file, done by any number of processes and machines.

Importing this package loads no JAX; only counting operations and working on cells does.
"""

from typing import TYPE_CHECKING

from .. import _lazy
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

__getattr__ = _lazy.imported_on_use(
    __name__,
    {
        "Cost": "._cost:Cost",
        "count": "._cost:count",
        "flops": "._estimate:flops",
        "measure_rate": "._estimate:measure_rate",
        "work": "._worker:work",
    },
)
