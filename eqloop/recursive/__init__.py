"""Models with nested loops, carried state and halting: TRM, HRM, EqR, FPRM from general parts."""

from ._adam_atan2 import adam_atan2 as adam_atan2
from ._carry import Carry as Carry
from ._carry import Puzzles as Puzzles
from ._halting import AbstractHalting as AbstractHalting
from ._halting import ByAge as ByAge
from ._halting import ByQ as ByQ
from ._halting import ByResidual as ByResidual
from ._halting import Row as Row
from ._make import make_model as make_model
from ._make import model_shapes as model_shapes
from ._model import RecursiveModel as RecursiveModel
from ._model import Segment as Segment
from ._recursion import Injection as Injection
from ._recursion import Recursion as Recursion
from ._recursion import SingleRecursion as SingleRecursion
from ._recursion import Stack as Stack
from ._scaled_residual import ScaledResidual as ScaledResidual
from ._schedule import AbstractSchedule as AbstractSchedule
from ._schedule import Cycles as Cycles
from ._schedule import DampedSteps as DampedSteps
from ._sign_descent import sign_descent as sign_descent
from ._states import LowLevel as LowLevel
from ._states import OneState as OneState
from ._states import TwoLevels as TwoLevels
from ._tokens import TokenEmbedding as TokenEmbedding
