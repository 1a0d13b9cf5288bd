from ._backprop import Backprop as Backprop
from ._base import AbstractGradient as AbstractGradient
from ._cotangent import AbstractCotangentSolve as AbstractCotangentSolve
from ._implicit import Implicit as Implicit
from ._neumann import Neumann as Neumann
from ._one_step import OneStep as OneStep
from ._phantom import Phantom as Phantom
from ._truncated import Truncated as Truncated
