"""Ways to run the loop. `SteadyState` is imported on first use, and Diffrax with it."""

from typing import TYPE_CHECKING

from .. import _lazy
from ._adaptive_damping import AdaptiveDamping as AdaptiveDamping
from ._adaptive_damping import Damping as Damping
from ._anderson import Anderson as Anderson
from ._broyden import Broyden as Broyden
from ._chord import Chord as Chord
from ._fixed_point import FixedPoint as FixedPoint
from ._forward import ForwardResult as ForwardResult
from ._forward import Solver as Solver
from ._forward import forward_result as forward_result
from ._forward import solve_forward as solve_forward
from ._iterative import AbstractSolver as AbstractSolver
from ._iterative import Iterate as Iterate
from ._iterative import Proposal as Proposal
from ._iterative import SolveState as SolveState
from ._iterative import choose as choose
from ._iterative import iterate as iterate
from ._iterative import iterate_watched as iterate_watched
from ._newton import AbstractNewton as AbstractNewton
from ._newton import NewtonKrylov as NewtonKrylov
from ._reversible import Reversible as Reversible
from ._traced import check_not_negative as check_not_negative
from ._traced import traced_float as traced_float
from ._unroll import Unroll as Unroll

if TYPE_CHECKING:
    from ._steady_state import SteadyState as SteadyState

__getattr__ = _lazy.imported_on_use(__name__, {"SteadyState": "._steady_state:SteadyState"})
