"""From run folders to tables and figures."""

from ._accuracy import accuracy_figure as accuracy_figure
