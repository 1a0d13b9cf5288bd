"""The paper's claims: its theory, checks of single claims, and a whole report on a model."""

from ._checks import CHECKS as CHECKS
from ._checks import Check as Check
from ._checks import Subject as Subject
from ._checks import random_subjects as random_subjects
from ._examine import examine as examine
from ._examine import planned as planned
from ._four_tests import EquilibriumTest as EquilibriumTest
from ._four_tests import Followed as Followed
from ._four_tests import follow as follow
from ._four_tests import four_tests as four_tests
from ._four_tests import stays_solved as stays_solved
from ._growth import GrowthByPart as GrowthByPart
from ._growth import growth_by_part as growth_by_part
from ._norm_modes import NormModes as NormModes
from ._norm_modes import norm_modes as norm_modes
from ._problem import Problem as Problem
from ._problem import make_problem as make_problem
from ._theory import compare as compare
from ._theory import predict as predict
from ._weights import weight_figures as weight_figures
