"""What a run is on disk: spec, presets, folder, log, records and checkpoints.

Importing it loads no JAX: only reading and writing checkpoints does.
"""

from ._folder import Run as Run
from ._folder import Which as Which
from ._folder import create_run as create_run
from ._folder import make_folder as make_folder
from ._folder import make_next_folder as make_next_folder
from ._folder import open_run as open_run
from ._folder import owned as owned
from ._folder import same_content as same_content
from ._layout import BEST as BEST
from ._layout import CHECKPOINTS as CHECKPOINTS
from ._layout import MANIFEST as MANIFEST
from ._layout import METRICS as METRICS
from ._layout import SPEC as SPEC
from ._layout import checkpoint_path as checkpoint_path
from ._layout import checkpoint_steps as checkpoint_steps
from ._log import AbstractLog as AbstractLog
from ._log import MetricsLog as MetricsLog
from ._log import NoLog as NoLog
from ._log import read_metrics as read_metrics
from ._log import trained_seconds as trained_seconds
from ._records import EVAL as EVAL
from ._records import REPORT as REPORT
from ._records import SPEC_AXES as SPEC_AXES
from ._records import SPLITS as SPLITS
from ._records import STABILITY as STABILITY
from ._records import STABILITY_AGAIN as STABILITY_AGAIN
from ._records import Evaluated as Evaluated
from ._records import RunResults as RunResults
from ._records import Stability as Stability
from ._records import read_player as read_player
from ._records import read_run as read_run
from ._records import read_spec as read_spec
from ._records import read_stability as read_stability
from ._records import record_of as record_of
from ._records import save_evaluation as save_evaluation
from ._records import save_gradients as save_gradients
from ._records import save_stability as save_stability
from ._records import say_steps as say_steps
from ._records import spec_axes as spec_axes
from ._resolve import SHORTCUTS as SHORTCUTS
from ._resolve import MakeTask as MakeTask
from ._resolve import load_preset as load_preset
from ._resolve import overlay as overlay
from ._resolve import parse_setting as parse_setting
from ._resolve import presets as presets
from ._resolve import resolve as resolve
from ._spec import ModelSpec as ModelSpec
from ._spec import SolverSpec as SolverSpec
from ._spec import Spec as Spec
from ._spec import TrainSpec as TrainSpec
from ._spec import trained_iterations as trained_iterations
from ._values import finite as finite
from ._values import share as share
