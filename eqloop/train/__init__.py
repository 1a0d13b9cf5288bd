"""Training: the compiled step, the loop around it, its losses, its devices and processes."""

from ._devices import Lost as Lost
from ._devices import abandon as abandon
from ._devices import agreed as agreed
from ._devices import first as first
from ._devices import from_first as from_first
from ._devices import join as join
from ._devices import leave as leave
from ._loop import Diverged as Diverged
from ._loop import Outcome as Outcome
from ._loop import same_spec as same_spec
from ._loop import train as train
from ._loss import AbstractLoss as AbstractLoss
from ._loss import Examples as Examples
from ._loss import Last as Last
from ._loss import Mean as Mean
from ._loss import Progressive as Progressive
from ._memory import check_examples as check_examples
from ._memory import check_memory as check_memory
from ._state import TrainState as TrainState
from ._state import init_state as init_state
from ._step import make_step as make_step
