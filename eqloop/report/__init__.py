"""From run folders to tables and figures."""

from ._accuracy import accuracy_figure as accuracy_figure
from ._check import check_figure as check_figure
from ._gradients import gradients_figure as gradients_figure
from ._scalar import scalar_figure as scalar_figure
from ._stability_page import read_stability as read_stability
from ._stability_page import write_stability as write_stability
