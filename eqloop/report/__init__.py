"""Tables, figures and pages of runs, sweeps, stability reports and checks."""

from ._correlation import Correlation as Correlation
from ._correlation import correlation_table as correlation_table
from ._correlation import correlations as correlations
from ._groups import Results as Results
from ._groups import read_results as read_results
from ._quantities import QUANTITIES as QUANTITIES
from ._quantities import value_at as value_at
from ._results import results_tables as results_tables
from ._results import write_results as write_results
from ._training import Training as Training
from ._training import TrainingCurve as TrainingCurve
from ._training import read_training as read_training
from .figures._accuracy import accuracy_figure as accuracy_figure
from .figures._check import check_figure as check_figure
from .figures._gradients import gradients_figure as gradients_figure
from .figures._scalar import scalar_figure as scalar_figure
from .figures._training_figure import training_figure as training_figure
from .pages._results_page import counts as counts
from .pages._stability_page import write_stability as write_stability
from .pages._training_page import training_page as training_page
from .tables._results_tables import short_table as short_table
from .tables._table import Table as Table
from .tables._table import markdown as markdown
