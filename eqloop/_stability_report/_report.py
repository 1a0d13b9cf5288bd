"""What `analyse` returns: the schema of `report.json`, version `FORMAT`.

The fields of the classes are the keys of the file, which has null for NaN and infinities. A `Band`
is three lists as long as the list of iterations beside it. Lists over examples are in the order of
the examples. A field with a default is missing in the files of earlier versions, which did not
measure it, or of a map without a task; `OPTIONAL` leaves out its key.
"""

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._schema import OPTIONAL, to_table
from .._tables import write_json
from ._basins import Basins
from ._census import Census
from ._modes import NormModesRecord, PrecisionRecord
from ._points import EdgeRecord, PlaneRecord, PointRecord
from ._statistics import NOT_MEASURED, Share, Summary
from ._task import Accuracy, ComparedGradient, EquilibriumTest, WeightNoise
from ._words import Outcome, Verdict

FORMAT = 1
"""Raised when a key changes its meaning or goes away; new keys do not raise it."""


@dataclasses.dataclass(frozen=True)
class Band:
    """A quantity over iterations, as quantiles over the examples at each iteration.

    **Attributes:**

    - `median`: its median.
    - `low`: its 5 % quantile.
    - `high`: its 95 % quantile.
    """

    median: list[float]
    low: list[float]
    high: list[float]


def _check_bands(iterations: list[int], *bands: Band) -> None:
    lists = [part for band in bands for part in (band.median, band.low, band.high)]
    if any(len(part) != len(iterations) for part in lists):
        raise ValueError("a band needs as many values as there are iterations")


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the loop goes from another kind of start.

    **Attributes:**

    - `converged`: share of the examples with such a start that reached a fixed point from it.
    - `same`: share of the examples that reached the same fixed point from both starts, of those
        that reached one from each.
    - `cosine`: path independence: the cosine between the fixed points from both starts.
    """

    converged: Share
    same: Share
    cosine: Summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reachability:
    """Does iteration get to a fixed point? See `reachability`.

    **Attributes:**

    - `tolerance`: relative residual at which a loop has settled.
    - `outcomes`: the outcome of each example.
    - `shares`: outcome -> share of the examples.
    - `periods`: the period of each example that ended in a cycle, 0 for the others.
    - `iterations`: a geometric grid of iteration counts.
    - `residual`: `|f(z) - z| / |f(z)|` on the grid, in the 2-norm.
    - `residual_cell`: the same by the largest cell.
    - `curves`: the residual in the 2-norm on the grid, one list for each example.
    - `settle_step`: the first iteration, counted from 1, whose residual is at most the tolerance.
    - `rate`: the measured factor per iteration by which the residual falls at the end.
    - `predicted_rate`: the spectral radius of df/dz at the last state.
    - `remaining`: estimate of the relative distance from the fixed point if the residual is below
        the tolerance: at most 0.005 for "converged", more for "unresolved".
    - `growth`: `|z_T| / |z_1|`.
    - `starts`: "gaussian" (noise of the same size as the own start) and "other" (the fixed point of
        another example) -> `Start`.
    - `basin`: the largest perturbation, relative to `|z*|`, from which the loop returned in every
        tested direction.
    - `basin_limit`: the largest tested perturbation.
    - `accuracy`: the share of the examples solved over iterations; None for a map without a task.

    **Raises** `ValueError` if `shares` lacks "converged", and if a band is not as long as
    `iterations`.
    """

    tolerance: float
    outcomes: list[Outcome]
    shares: dict[str, Share]
    periods: list[int]
    iterations: list[int]
    residual: Band
    residual_cell: Band
    curves: list[list[float]]
    settle_step: Summary
    rate: Summary
    remaining: Summary = dataclasses.field(default=NOT_MEASURED, metadata=OPTIONAL)
    predicted_rate: Summary
    growth: Summary
    starts: dict[str, Start]
    basin: Summary
    basin_limit: float
    accuracy: Accuracy | None = dataclasses.field(default=None, metadata=OPTIONAL)

    def __post_init__(self):
        _check_bands(self.iterations, self.residual, self.residual_cell)
        if "converged" not in self.shares:
            raise ValueError("it has no reachability.shares.converged")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputDependence:
    """Do the limits depend on the input, and how? See `input_dependence`.

    **Attributes:**

    - `tolerance`: relative distance below which two fixed points count as one.
    - `inputs`: numbers of inputs: 1, 2, 4, ..., up to the number of examples that converged.
    - `clusters`: number of distinct fixed points of this number of inputs, averaged over orders of
        the examples.
    - `distinct`: clusters over inputs, for all examples that converged.
    - `spread`: mean pairwise distance of the fixed points, relative to their mean norm, over that
        of the inputs.
    - `spread_low`, `spread_high`: the ends of its 95 % interval, by resampling the examples.
    - `recall`: whether f depends on the input at all, other than through the start; None in
        reports of earlier versions.
    - `iterations`: a geometric grid of iteration counts.
    - `sensitivity`: `|dz_t/dx|_F` on the grid; includes the derivative of the start if the start is
        a function of the input.
    - `kept`: the sensitivity after the last iteration over that after the first, of each example
        that converged.
    - `implicit`: `|(I - J)^-1 df/dx|_F` of each example that converged.
    - `agreement`: the sensitivity after the last iteration over `implicit`.
    - `smoothness`: `|z*(x + d) - z*(x)| / |(I - J)^-1 df/dx d|` for a small d: 1 if z* is
        differentiable. See `smoothness`.
    - `through_start`: `|z*(x + d) - z*(x)| / |dz_T/dx d|`, where the loop for `x + d` starts at the
        start of `x + d`: includes the influence of the start on z*.
    - `probe`: R^2, on held-out examples, of the input as a linear function of z*; None for too few
        examples. See `linear_probe`.
    - `points`: coordinates of each fixed point in the plane of their two main directions; None for
        an example that did not converge.
    - `plane`: share of the variance of the fixed points that lies in this plane.
    """

    tolerance: float
    inputs: list[int]
    clusters: list[float]
    distinct: float
    spread: float
    spread_low: float
    spread_high: float
    recall: bool | None = dataclasses.field(default=None, metadata=OPTIONAL)
    iterations: list[int]
    sensitivity: Band
    kept: Summary = dataclasses.field(default=NOT_MEASURED, metadata=OPTIONAL)
    implicit: Summary
    agreement: Summary
    smoothness: Summary
    through_start: Summary = dataclasses.field(default=NOT_MEASURED, metadata=OPTIONAL)
    probe: float | None
    points: list[list[float] | None]
    plane: float

    def __post_init__(self):
        _check_bands(self.iterations, self.sensitivity)

    @property
    def distinct_share(self) -> Share | None:
        """`distinct` and its counts, without an interval: the inputs that converged are no sample.
        None if none did."""
        if not self.clusters or math.isnan(self.clusters[-1]):
            return None
        hits, count = round(self.clusters[-1]), self.inputs[-1]
        return Share(hits, count, self.distinct, math.nan, math.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """The backward pass: gradient norms, conditioning of I - J, local stability. See `geometry`.

    **Attributes:**

    - `iterations`: 0, 1, ... up to the last iteration that is differentiated.
    - `gradient_norm`: `|dL/dz_t| / |dL/dz_T|` at these iterations.
    - `cosines`: gradient -> cosine of its cotangent to that of the implicit gradient.
    - `ratios`: gradient -> ratio of the norms of these cotangents.
    - `sigma_min`, `sigma_max`: the extreme singular values of I - J.
    - `condition`: their quotient.
    - `products`: number of products with J^T in the backward solve.
    - `solved`: share of backward solves that reached their tolerance.
    - `return_factor`: measured growth per iteration of a small push along the leading eigenvector.
    - `return_predicted`: the modulus of its eigenvalue.
    - `returned`: share of pushes that returned, among examples with a known eigenvector.
    - `weight_noise`: the share of the examples solved with noise on all weights; None for a map
        without a task.
    - `audit`: gradient -> its likeness to two reference gradients; None for a map without a task.
    """

    iterations: list[int]
    gradient_norm: Band
    cosines: dict[str, Summary]
    ratios: dict[str, Summary]
    sigma_min: Summary
    sigma_max: Summary
    condition: Summary
    products: Summary
    solved: Share
    return_factor: Summary
    return_predicted: Summary
    returned: Share
    weight_noise: WeightNoise | None = dataclasses.field(default=None, metadata=OPTIONAL)
    audit: dict[str, ComparedGradient] | None = dataclasses.field(default=None, metadata=OPTIONAL)

    def __post_init__(self):
        _check_bands(self.iterations, self.gradient_norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The Jacobian df/dz where the loop ended. See `spectrum`.

    **Attributes:**

    - `eigenvalues`: one list for each example of its leading eigenvalues, as triples `[real,
        imaginary, converged (0 or 1)]`.
    - `radius`: largest modulus; NaN if the eigenvalue did not converge, or its error may exceed a
        hundredth of it.
    - `radius_error`: estimate of the error of that modulus; see `Eigenvalues`.
    - `radius_at_fixed_points`: `radius` of the examples that converged, NaN for the others.
    - `sigma_max`: largest singular value.
    - `non_normality`: `sigma_max / radius`.
    - `at_fixed_point`: whether each example converged.
    - `lyapunov`: the leading exponents along the orbit, largest first, per iteration; one `Summary`
        for each exponent.
    - `regimes`: "contracting", "marginal", "expanding" or "unknown" for each example, by the
        leading exponent and its error (see `spectrum`).
    - `regime_shares`: regime -> share of the examples.
    - `weights`: numbers of the weights alone (see `eqloop.claims.weight_figures`), and the entropy
        of the attention; None for a map without a model.
    - `norm_modes`: exact modes of the norms of a model; None if they were not measured.
    - `growth_by_part`: recall, attention or MLP of a model -> its part of the leading exponent (see
        `eqloop.claims.growth_by_part`); None if it was not measured.
    - `precision`: exponents against those in float64; None if they were not compared.
    """

    eigenvalues: list[list[list[float]]]
    radius: Summary
    radius_error: Summary = dataclasses.field(default=NOT_MEASURED, metadata=OPTIONAL)
    radius_at_fixed_points: Summary = dataclasses.field(default=NOT_MEASURED, metadata=OPTIONAL)
    sigma_max: Summary
    non_normality: Summary
    at_fixed_point: list[bool]
    lyapunov: list[Summary]
    regimes: list[str]
    regime_shares: dict[str, Share]
    weights: dict[str, float] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    norm_modes: NormModesRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)
    growth_by_part: dict[str, Summary] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    precision: PrecisionRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True)
class Statement:
    """One of the three verdicts.

    **Attributes:**

    - `verdict`: a member of `Verdict`; its text is what `report.json` holds.
    - `because`: one sentence with the numbers that the verdict follows from, or the reason why
        there are none.
    - `numbers`: path in the report -> number, for these numbers.
    """

    verdict: Verdict
    because: str
    numbers: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A prediction of a theory for one axis, and whether the measurement agrees with it.

    **Attributes:**

    - `claim`: the prediction in words.
    - `because`: the argument for it.
    - `agrees`: whether the verdict agrees; None if the theory claims nothing, if the axis could not
        be measured, and if the measurement is inconclusive.
    """

    claim: str
    because: str
    agrees: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StabilityReport:
    """The three axes of stability, and their measurements. There is no overall score.

    **Attributes:**

    - `reachability`, `input_dependence`, `geometry`, `spectrum`: see their types.
    - `verdict`: axis -> `Statement`.
    - `predicted`: axis -> `Agreement`, the predictions of a theory; None for a map without a
        theory.
    - `settings`: the arguments of the measurement, with `format` and `seconds`.
    - `computes`: whether the equilibria compute the answer or the loop only settles: "t1" to "t4"
        -> `EquilibriumTest`, see `eqloop.claims.four_tests`; None for a map without a task.
    - `census`: how loops end against whether their answers are right; None without a census.
    - `points`: fixed points and slow points that searches located, by example; None without a
        search.
    - `planes`: orbits of some examples in their main planes; None without a census.
    - `edges`: edge states between stable points; None without a search.
    - `basins`: where the loops go from other starts; None if it was not measured.

    **Raises** `ValueError` if `verdict` lacks an axis.
    """

    reachability: Reachability
    input_dependence: InputDependence
    geometry: Geometry
    spectrum: Spectrum
    verdict: dict[str, Statement]
    predicted: Mapping[str, Agreement] | None
    settings: dict[str, Any]
    computes: dict[str, EquilibriumTest] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    census: Census | None = dataclasses.field(default=None, metadata=OPTIONAL)
    points: list[PointRecord] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    planes: list[PlaneRecord] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    edges: list[EdgeRecord] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    basins: Basins | None = dataclasses.field(default=None, metadata=OPTIONAL)

    def __post_init__(self):
        for axis in ("reachability", "input_dependence", "geometry"):
            if axis not in self.verdict:
                raise ValueError(f"it has no verdict.{axis}")

    @property
    def precision_warning(self) -> str | None:
        """One sentence if exponents in the precision of the state and in float64 part, or why they
        are not compared; None if they agree or were not measured."""
        return None if self.spectrum.precision is None else self.spectrum.precision.warning

    def tables(self) -> dict[str, Any]:
        """The content of `report.json`: nested tables of plain values; NaN becomes None."""
        return to_table(self)

    def __str__(self) -> str:
        """A summary of one screen: the verdicts with the numbers they rest on."""
        lines = [f"{len(self.reachability.outcomes)} examples"]
        for axis, statement in self.verdict.items():
            title = f"{axis.replace('_', ' ')}: {statement.verdict}"
            lines += ["", title, _paragraph(statement.because)]
            if self.predicted is not None and axis in self.predicted:
                because = f"theory: {self.predicted[axis].because}"
                lines.append(_paragraph(because))
        return "\n".join(lines)

    def save(self, folder: Path | str) -> Path:
        """Write `report.json`.

        **Arguments:**

        - `folder`: where to write it; the folder is made if it is missing.

        **Returns** the path of the file. **Raises** `InputError` if it cannot be written.
        """
        path = Path(folder) / "report.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self.tables())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        return path

    def page(self, folder: Path | str) -> Path:
        """Write `report.json`, the page `report.html` and its figures.

        **Arguments:**

        - `folder`: where to write them; the folder is made if it is missing.

        **Returns** the path of the page. **Raises** `InputError` if a file cannot be written, and
        if matplotlib is not installed.
        """
        from ..report import write_stability  # draws; only whoever wants a page pays for it

        return write_stability(self.save(folder).parent)[0]


def _paragraph(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, 86), "  ")
