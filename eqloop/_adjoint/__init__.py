from ._backprop import Backprop as Backprop
from ._backprop import OneStep as OneStep
from ._backprop import Truncated as Truncated
from ._base import AbstractGradient as AbstractGradient
from ._implicit import Implicit as Implicit
