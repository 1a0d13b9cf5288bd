"""The public names of `eqloop`, one line each; `eqloop/__init__.py` loads them on first use."""

from . import interop as interop
from . import nn as nn
from ._adjoint import AbstractGradient as AbstractGradient
from ._adjoint import Backprop as Backprop
from ._adjoint import Implicit as Implicit
from ._adjoint import OneStep as OneStep
from ._adjoint import Truncated as Truncated
from ._equilibrium import equilibrium as equilibrium
from ._iteration import trajectory as trajectory
from ._model import LoopedTransformer as LoopedTransformer
from ._model import Output as Output
from ._model import parameter_count as parameter_count
from ._solution import RESULTS as RESULTS
from ._solution import BackwardReport as BackwardReport
from ._solution import Equilibrium as Equilibrium
from ._solver import FixedPoint as FixedPoint
from ._solver import Unroll as Unroll
