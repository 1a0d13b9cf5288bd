"""Training: specs, losses, the compiled step, the loop, checkpoints and evaluation."""

from ._config import ModelSpec as ModelSpec
from ._config import SolverSpec as SolverSpec
from ._config import Spec as Spec
from ._config import TrainSpec as TrainSpec
from ._evaluate import Curve as Curve
from ._evaluate import Evaluation as Evaluation
from ._evaluate import evaluate as evaluate
from ._evaluate import geometric as geometric
from ._loop import Diverged as Diverged
from ._loop import Outcome as Outcome
from ._loop import train as train
from ._metrics import read_metrics as read_metrics
from ._resolve import presets as presets
from ._resolve import resolve as resolve
from ._run import Run as Run
from ._run import open_run as open_run
from ._state import TrainState as TrainState
from ._state import init_state as init_state
from ._state import make_gradient as make_gradient
from ._state import make_model as make_model
from ._state import make_solver as make_solver
from ._step import make_step as make_step
