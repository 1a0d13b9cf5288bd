"""Measurements of a trained model on its task: accuracy over iterations, solving with a budget,
traces."""

from ._curves import Curve as Curve
from ._curves import Evaluation as Evaluation
from ._curves import evaluate as evaluate
from ._curves import geometric as geometric
from ._measure import at_most as at_most
from ._measure import measure as measure
from ._player import player as player
from ._solve import Cost as Cost
from ._solve import Solved as Solved
from ._solve import solve as solve
from ._trace import Trace as Trace
from ._trace import trace as trace
