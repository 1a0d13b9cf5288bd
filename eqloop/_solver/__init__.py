from ._fixed_point import FixedPoint as FixedPoint
from ._run import Solver as Solver
from ._run import approach as approach
from ._unroll import Unroll as Unroll
