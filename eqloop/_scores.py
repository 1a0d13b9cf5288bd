"""The names of the scores that every task has; a task may have further ones."""

from typing import Final

EXACT: Final = "exact"
"""Whether the whole answer of an example is right."""
CELLS: Final = "cells"
"""The share of the cells of an answer that are right."""
