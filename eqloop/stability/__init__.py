"""Is a loop stable: reachability, input-dependence and geometry of any map `f(z, x)`."""

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
from ._statistics import Share as Share
from ._statistics import Summary as Summary
from ._statistics import bootstrap as bootstrap
from ._statistics import share as share
from ._statistics import summary as summary
