"""Is a loop stable: reachability, input-dependence and geometry of any map `f(z, x)`.

`analyse` measures everything; each axis is also a function of its own, of what `follow_orbits`
returns.
"""

from ._analyse import analyse as analyse
from ._basins import Basins as Basins
from ._basins import basin_shares as basin_shares
from ._basins import basins as basins
from ._edge import EdgeState as EdgeState
from ._edge import edge_state as edge_state
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
from ._orbits import follow_orbits as follow_orbits
from ._orbits import iterate_to_tolerance as iterate_to_tolerance
from ._point import Point as Point
from ._points import find_points as find_points
from ._points import points as points
from ._reachability import basin_radius as basin_radius
from ._reachability import rates as rates
from ._reachability import reachability as reachability
from ._report import FORMAT as FORMAT
from ._report import Band as Band
from ._report import Geometry as Geometry
from ._report import InputDependence as InputDependence
from ._report import Reachability as Reachability
from ._report import Spectrum as Spectrum
from ._report import StabilityReport as StabilityReport
from ._report import Start as Start
from ._report import Statement as Statement
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
from ._statistics import Share as Share
from ._statistics import Summary as Summary
from ._statistics import bootstrap as bootstrap
from ._statistics import share as share
from ._statistics import summary as summary
from ._verdict import CONSTANT as CONSTANT
from ._verdict import judge as judge
from ._words import Outcome as Outcome
from ._words import Verdict as Verdict
from ._work import COMPILE as COMPILE
from ._work import planned as planned
