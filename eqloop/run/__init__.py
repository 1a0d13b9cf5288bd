"""Runs on disk: spec, presets, folder, log, records and checkpoints.

Importing this package loads no JAX; only reading and writing checkpoints does.
"""

from typing import TYPE_CHECKING

from .. import _lazy
from .._places import NORMS as NORMS
from .._places import RECALLS as RECALLS
from ._evaluations import EVAL as EVAL
from ._evaluations import SPLITS as SPLITS
from ._evaluations import Cost as Cost
from ._evaluations import CostRecord as CostRecord
from ._evaluations import Curve as Curve
from ._evaluations import DataSource as DataSource
from ._evaluations import Evaluation as Evaluation
from ._evaluations import EvaluationRecord as EvaluationRecord
from ._evaluations import Sample as Sample
from ._evaluations import Select as Select
from ._evaluations import Solved as Solved
from ._evaluations import evaluation_path as evaluation_path
from ._evaluations import read_cost as read_cost
from ._evaluations import read_evaluation as read_evaluation
from ._evaluations import save_cost as save_cost
from ._evaluations import save_evaluation as save_evaluation
from ._folder import Run as Run
from ._folder import Which as Which
from ._folder import check_folder as check_folder
from ._folder import create_run as create_run
from ._folder import make_folder as make_folder
from ._folder import make_next_folder as make_next_folder
from ._folder import open_run as open_run
from ._folder import owned as owned
from ._folder import same_content as same_content
from ._gradients import AuditedGradient as AuditedGradient
from ._gradients import Comparison as Comparison
from ._gradients import GradientAudit as GradientAudit
from ._gradients import GradientsRecord as GradientsRecord
from ._gradients import Likeness as Likeness
from ._gradients import read_gradients as read_gradients
from ._gradients import save_gradients as save_gradients
from ._history import History as History
from ._history import Origin as Origin
from ._layout import BEST as BEST
from ._layout import CHECKPOINTS as CHECKPOINTS
from ._layout import MANIFEST as MANIFEST
from ._layout import METRICS as METRICS
from ._layout import SPEC as SPEC
from ._layout import Best as Best
from ._layout import best_of_notes as best_of_notes
from ._layout import checkpoint_path as checkpoint_path
from ._layout import checkpoint_steps as checkpoint_steps
from ._layout import notes_of_best as notes_of_best
from ._layout import parts_of as parts_of
from ._lines import LINES as LINES
from ._lines import GradientsLine as GradientsLine
from ._lines import Line as Line
from ._lines import TrainingLine as TrainingLine
from ._lines import ValidationLine as ValidationLine
from ._log import AbstractLog as AbstractLog
from ._log import MetricsLog as MetricsLog
from ._log import MetricsReader as MetricsReader
from ._log import NoLog as NoLog
from ._log import last_training_line as last_training_line
from ._log import read_metrics as read_metrics
from ._log import trained_seconds as trained_seconds
from ._names import GRADIENTS as GRADIENTS
from ._names import LOSSES as LOSSES
from ._names import PENALTIES as PENALTIES
from ._names import SOLVERS as SOLVERS
from ._names import Call as Call
from ._names import gradient_facts as gradient_facts
from ._names import is_outside as is_outside
from ._names import meanings as meanings
from ._names import refuse_outside as refuse_outside
from ._names import solver_facts as solver_facts
from ._phases import Phase as Phase
from ._player import Frame as Frame
from ._player import PlayedExample as PlayedExample
from ._player import Player as Player
from ._record import understood as understood
from ._records import MEASURES as MEASURES
from ._records import REPORT as REPORT
from ._records import SPEC_AXES as SPEC_AXES
from ._records import STABILITY as STABILITY
from ._records import STABILITY_AGAIN as STABILITY_AGAIN
from ._records import RunResults as RunResults
from ._records import Stability as Stability
from ._records import read_player as read_player
from ._records import read_run as read_run
from ._records import read_spec as read_spec
from ._records import read_stability as read_stability
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
from ._spec import DERIVED as DERIVED
from ._spec import GROUPS as GROUPS
from ._spec import OBJECTS as OBJECTS
from ._spec import ModelSpec as ModelSpec
from ._spec import SolverSpec as SolverSpec
from ._spec import Spec as Spec
from ._spec import Stage as Stage
from ._spec import TrainSpec as TrainSpec
from ._spec import trained_iterations as trained_iterations
from ._sweep_records import GRID as GRID
from ._sweep_records import RUNS as RUNS
from ._sweep_records import STATE as STATE
from ._sweep_records import CellResult as CellResult
from ._sweep_records import Scalar as Scalar
from ._sweep_records import Status as Status
from ._sweep_records import SweepRecord as SweepRecord
from ._sweep_records import is_sweep as is_sweep
from ._sweep_records import read_cell_result as read_cell_result
from ._sweep_records import read_sweep as read_sweep
from ._sweep_records import save_cell_result as save_cell_result
from ._sweep_records import save_sweep as save_sweep
from ._sweep_records import state_path as state_path
from ._values import finite as finite
from ._values import share as share

if TYPE_CHECKING:
    from ._checkpoint import Header as Header
    from ._checkpoint import load as load_arrays  # noqa: F401
    from ._checkpoint import load_header as load_header
    from ._checkpoint import save as save_arrays  # noqa: F401

__getattr__ = _lazy.imported_on_use(
    __name__,
    {
        "Header": "._checkpoint:Header",
        "load_arrays": "._checkpoint:load",
        "load_header": "._checkpoint:load_header",
        "save_arrays": "._checkpoint:save",
    },
)
