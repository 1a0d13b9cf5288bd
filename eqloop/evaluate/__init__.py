"""Measurements of a trained model on its task: accuracy over iterations, solving with a budget,
traces."""

from ..run import Cost as Cost
from ..run import Curve as Curve
from ..run import Evaluation as Evaluation
from ..run import Solved as Solved
from ._curves import evaluate as evaluate
from ._curves import geometric as geometric
from ._measure import at_most as at_most
from ._measure import measure as measure
from ._player import player as player
from ._solve import solve as solve
from ._trace import Trace as Trace
from ._trace import trace as trace
