"""From run folders to tables and figures."""

from ._accuracy import accuracy_figure as accuracy_figure
from ._gradients import gradients_figure as gradients_figure
from ._scalar import scalar_figure as scalar_figure
