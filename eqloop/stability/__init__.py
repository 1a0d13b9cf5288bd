"""Is a loop stable: reachability, input-dependence and geometry of any map `f(z, x)`.

`analyse` measures everything; each axis is also a function of its own, of what `follow_orbits`
returns.
"""

from .._stability_report import FORMAT as FORMAT
from .._stability_report import Agreement as Agreement
from .._stability_report import Auroc as Auroc
from .._stability_report import Band as Band
from .._stability_report import Geometry as Geometry
from .._stability_report import InputDependence as InputDependence
from .._stability_report import Outcome as Outcome
from .._stability_report import RankCorrelation as RankCorrelation
from .._stability_report import Reachability as Reachability
from .._stability_report import Share as Share
from .._stability_report import Spectrum as Spectrum
from .._stability_report import StabilityReport as StabilityReport
from .._stability_report import Start as Start
from .._stability_report import Statement as Statement
from .._stability_report import Summary as Summary
from .._stability_report import Verdict as Verdict
from ._analyse import analyse as analyse
from ._analyse import analyse_orbits as analyse_orbits
from ._eigenvalues import Eigenvalues as Eigenvalues
from ._eigenvalues import leading_eigenvalues as leading_eigenvalues
from ._geometry import geometry as geometry
from ._geometry import return_test as return_test
from ._input_dependence import cluster as cluster
from ._input_dependence import input_dependence as input_dependence
from ._input_dependence import linear_probe as linear_probe
from ._input_dependence import smoothness as smoothness
from ._operators import Gram as Gram
from ._operators import InverseGram as InverseGram
from ._operators import Jacobian as Jacobian
from ._operators import input_jacobian as input_jacobian
from ._operators import state_jacobian as state_jacobian
from ._orbits import Orbits as Orbits
from ._orbits import classify as classify
from ._orbits import distance as distance
from ._orbits import follow_orbits as follow_orbits
from ._orbits import iterate_to_tolerance as iterate_to_tolerance
from ._orbits import settle_steps as settle_steps
from ._ranks import auroc as auroc
from ._ranks import rank_correlation as rank_correlation
from ._reachability import basin_radius as basin_radius
from ._reachability import gaussian_starts as gaussian_starts
from ._reachability import rates as rates
from ._reachability import reachability as reachability
from ._scalar import ScalarCase as ScalarCase
from ._scalar import ScalarReport as ScalarReport
from ._scalar import anisotropy as anisotropy
from ._scalar import project_external as project_external
from ._scalar import project_internal as project_internal
from ._scalar import scalar_experiment as scalar_experiment
from ._scalar import stable_external as stable_external
from ._scalar import stable_internal as stable_internal
from ._spectrum import jacobian_eigenvalues as jacobian_eigenvalues
from ._spectrum import lyapunov_exponents as lyapunov_exponents
from ._spectrum import spectrum as spectrum
from ._statistics import NORMAL_95 as NORMAL_95
from ._statistics import bootstrap as bootstrap
from ._statistics import share as share
from ._statistics import summary as summary
from ._verdict import CONSTANT as CONSTANT
from ._verdict import judge as judge
from ._work import COMPILE as COMPILE
from ._work import planned as planned
