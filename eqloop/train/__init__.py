"""Training: specs, losses, the compiled step, the loop, checkpoints and evaluation."""

from ._config import ModelSpec as ModelSpec
from ._config import SolverSpec as SolverSpec
from ._config import Spec as Spec
from ._config import TrainSpec as TrainSpec
from ._resolve import presets as presets
from ._resolve import resolve as resolve
