"""Training: the compiled step, the loop around it, its losses, its devices and processes."""

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
from ._method import Objects as Objects
from ._processes import LostProcess as LostProcess
from ._processes import broadcast_json as broadcast_json
from ._processes import exit_now as exit_now
from ._processes import is_main_process as is_main_process
from ._processes import join_processes as join_processes
from ._processes import raise_on_all as raise_on_all
from ._processes import shutdown as shutdown
from ._state import TrainState as TrainState
from ._state import init_state as init_state
from ._step import Order as Order
from ._step import make_step as make_step
from ._step import put as put
