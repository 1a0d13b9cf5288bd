"""The numbers of a stability report as HTML tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..._numbers import DASH, typeset_hits, typeset_interval, typeset_number, typeset_percent
from ..._stability_report import Share, Spectrum, StabilityReport, Summary
from .._escape import html_text
from ._census_tables import Value, census_groups, outcomes_table, verifiers_table
from ._point_tables import basins_table, edges_table, points_table

Row = tuple[str, Value]
"""A label (HTML), and a value."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """An HTML table. The first cell of a row is its heading and HTML; the other cells are text."""
    return (
        f"<table><caption>{html_text(caption)}</caption><thead><tr>"
        + "".join(f'<th scope="col">{html_text(text)}</th>' for text in head)
        + f"</tr></thead><tbody>{''.join(map(_row, rows))}</tbody></table>"
    )


def main_table(report: StabilityReport) -> str:
    """Every measured number with its interval, in one group per part of the report."""
    bodies = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="4">{html_text(title)}</th></tr>'
        + "".join(_row((label, *_cells(value))) for label, value in rows)
        + "</tbody>"
        for title, rows in _groups(report)
    )
    heads = ("", "mean", "95 % interval", "examples")
    return (
        "<table><thead><tr>"
        + "".join(f'<th scope="col">{head}</th>' if head else "<td></td>" for head in heads)
        + f"</tr></thead>{bodies}</table>"
    )


def extra_tables(report: StabilityReport) -> Iterator[tuple[str, str]]:
    """Heading and HTML of the tables for a model with a task: census, points, edge states, basins,
    the four tests, gradients, noise, weights."""
    tables = []
    if report.census is not None:
        tables += [outcomes_table(report.census), verifiers_table(report.census)]
    if report.points is not None:
        tables.append(points_table(report.points))
    if report.edges is not None:
        tables.append(edges_table(report.edges))
    if report.basins is not None:
        tables.append(basins_table(report.basins))
    for made in tables:
        rows = [(html_text(label), *cells) for label, *cells in made.rows]
        yield made.title, table(made.head, rows, made.note)
    if tests := report.computes:
        rows = [
            (
                html_text(f"{test.claim}: {test.measure}"),
                typeset_number(test.value),
                typeset_interval(test.low, test.high),
                str(test.count),
                f"above {test.limit:g}",
                test.verdict,
            )
            for test in tests.values()
        ]
        heads = ("test", "value", "95 % interval", "examples", "passed", "")
        caption = "Where z* is the start, or one step from it, neither of the first two is passed."
        yield "Does the equilibrium compute?", table(heads, rows, caption)
    if audit := report.geometry.audit:
        rows = [
            (
                html_text(name),
                _pair(row.cosine_backprop, row.ratio_backprop),
                _pair(row.cosine_implicit, row.ratio_implicit),
                typeset_number(row.seconds),
            )
            for name, row in audit.items()
        ]
        heads = ("gradient", "full backprop.", "implicit", "seconds")
        caption = "Cosine to two reference gradients, and ratio of norms (×)."
        yield "Gradients of the weights", table(heads, rows, caption)
    if noise := report.geometry.weight_noise:
        columns = (noise.levels, noise.accuracy, noise.low, noise.high)
        rows = [
            (
                typeset_percent(level),
                typeset_percent(solved),
                typeset_interval(low, high, typeset_percent),
            )
            for level, solved, low, high in zip(*columns, strict=True)
        ]
        heads = ("relative noise", "solved", "95 % interval")
        caption = "Share solved with noise added to every weight."
        yield "Noise on the weights", table(heads, rows, caption)
    if weights := report.spectrum.weights:
        rows = [(html_text(name), typeset_number(value)) for name, value in weights.items()]
        yield "Weight matrices", table(("quantity", "value"), rows, "Numbers of the weights alone.")


def _groups(report: StabilityReport) -> Iterator[tuple[str, list[Row]]]:
    reach, dependence = report.reachability, report.input_dependence
    geometry, spectrum = report.geometry, report.spectrum
    starts: dict[str, str] = {"gaussian": "Gaussian noise", "other": "another fixed point"}
    yield (
        "Reachability",
        [
            *_named("ended:", reach.shares),
            ("iterations to the tolerance", reach.settle_step),
            ("factor per iteration, measured", reach.rate),
            ("factor per iteration, from ρ(J)", reach.predicted_rate),
            ("remaining distance to the fixed point, estimated", reach.remaining),
            ("growth |z<sub>T</sub>| / |z<sub>1</sub>|", reach.growth),
            *(
                (f"from {html_text(starts.get(name, name))}: {label}", value)
                for name, start in reach.starts.items()
                for label, value in (
                    ("converged", start.converged),
                    ("to the same point", start.same),
                    ("path independence", start.cosine),
                )
            ),
            (f"basin, tried up to {typeset_number(reach.basin_limit)}", reach.basin),
        ],
    )
    spread = (dependence.spread, dependence.spread_low, dependence.spread_high)
    yield (
        "Input-dependence",
        [
            ("distinct fixed points, of the inputs that converged", dependence.distinct_share),
            ("spread of fixed points / of inputs", spread),
            ("|(I − J)<sup>−1</sup> ∂f/∂x|", dependence.implicit),
            ("|dz<sub>T</sub>/dx| over that", dependence.agreement),
            ("smoothness (1: differentiable)", dependence.smoothness),
            ("the same, through the start as well", dependence.through_start),
            ("|dz<sub>T</sub>/dx| over |dz<sub>1</sub>/dx|", dependence.kept),
            ("linear probe of the input, R<sup>2</sup>", dependence.probe),
        ],
    )
    yield (
        "Geometry",
        [
            *(
                (f"cosine to implicit: {html_text(name)}", cosine)
                for name, cosine in geometry.cosines.items()
            ),
            *(
                (f"norm over implicit: {html_text(name)}", ratio)
                for name, ratio in geometry.ratios.items()
            ),
            ("σ<sub>min</sub>(I − J)", geometry.sigma_min),
            ("σ<sub>max</sub>(I − J)", geometry.sigma_max),
            ("condition of I − J", geometry.condition),
            ("backward solve: products with J<sup>T</sup>", geometry.products),
            ("backward solve: reached tolerance", geometry.solved),
            ("push along leading eigenvector, factor", geometry.return_factor),
            ("the same, from |λ|", geometry.return_predicted),
            ("came back after the push", geometry.returned),
        ],
    )
    exponents = enumerate(spectrum.lyapunov, start=1)
    yield (
        "Spectrum of J",
        [
            ("spectral radius ρ(J) at fixed points", spectrum.radius_at_fixed_points),
            ("spectral radius ρ(J) at all last states", spectrum.radius),
            ("its error, estimated", spectrum.radius_error),
            ("σ<sub>max</sub>(J)", spectrum.sigma_max),
            ("non-normality σ<sub>max</sub> / ρ", spectrum.non_normality),
            *((f"Lyapunov exponent {rank}", exponent) for rank, exponent in exponents),
            *(
                (f"regime: {html_text(name)}", share)
                for name, share in spectrum.regime_shares.items()
            ),
            *_exponents(spectrum),
        ],
    )
    if report.census is not None:
        yield from census_groups(report.census)


def _exponents(spectrum: Spectrum) -> Iterator[Row]:
    """What a census adds to the exponents."""
    if (precision := spectrum.precision) is not None:
        for rank, exponent in enumerate(precision.double, start=1):
            yield f"Lyapunov exponent {rank}, in float64", exponent
    yield from _named("part of the leading exponent:", spectrum.growth_by_part or {})
    if (modes := spectrum.norm_modes) is not None:
        yield f"exact modes of the norms: {html_text(modes.statement)}", modes.zero
        yield "the zero modes, measured: relative residual", modes.zero_residual
        yield "scale of the cells, measured: |J s − s| / |s|", modes.neutral_residual


def _named(what: str, values: Mapping[str, Value]) -> Iterator[Row]:
    for name, value in values.items():
        yield f"{what} {html_text(name)}", value


def _cells(value: Value) -> tuple[str, str, str]:
    """Mean, interval and number of examples."""
    if isinstance(value, Share):
        interval = typeset_interval(value.low, value.high, typeset_percent)
        return typeset_percent(value.share), interval, typeset_hits(value.hits, value.count)
    if isinstance(value, Summary):
        if not value.values:  # reports of earlier versions did not measure it
            return DASH, "", ""
        interval = typeset_interval(value.low, value.high)
        return typeset_number(value.mean), interval, str(value.count)
    if isinstance(value, tuple):
        mean, low, high = value
        return typeset_number(mean), typeset_interval(low, high), ""
    return typeset_number(value), "", ""


def _pair(cosine: float | None, ratio: float | None) -> str:
    return f"{typeset_number(cosine)} (×{typeset_number(ratio)})"


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{first}</th>' + "".join(
        f"<td>{html_text(text)}</td>" for text in others
    ) + "</tr>"  # fmt: skip
