"""`report.json`: the classes that it is written from and read into. Importing them loads no JAX."""

from ._census import Bypass as Bypass
from ._census import Census as Census
from ._census import Froze as Froze
from ._census import OutcomeCorrect as OutcomeCorrect
from ._census import SettledWrong as SettledWrong
from ._report import FORMAT as FORMAT
from ._report import Agreement as Agreement
from ._report import Band as Band
from ._report import Geometry as Geometry
from ._report import InputDependence as InputDependence
from ._report import Reachability as Reachability
from ._report import Spectrum as Spectrum
from ._report import StabilityReport as StabilityReport
from ._report import Start as Start
from ._report import Statement as Statement
from ._statistics import Auroc as Auroc
from ._statistics import RankCorrelation as RankCorrelation
from ._statistics import Share as Share
from ._statistics import Summary as Summary
from ._task import Accuracy as Accuracy
from ._task import ComparedGradient as ComparedGradient
from ._task import EquilibriumTest as EquilibriumTest
from ._task import WeightNoise as WeightNoise
from ._words import Outcome as Outcome
from ._words import Verdict as Verdict
