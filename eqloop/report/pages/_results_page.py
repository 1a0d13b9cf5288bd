"""The page of a report on runs: tables and figures in one file that opens from disk."""

from collections.abc import Callable, Iterator, Sequence

from ..._numbers import typeset_number, typeset_value
from ...run import SPLITS
from .._escape import html_text
from .._groups import Group, Results, label
from .._quantities import number_at
from ..figures._results_figures import curves_figure, exponent, located, lyapunov_figure, rho_figure
from ..figures._side_by_side_figure import Part, side_by_side_figure
from ..tables._results_tables import all_tables
from ..tables._table import html
from ._page import page, picture

_FIRST = ("chosen", "results")
"""Names of the tables that precede the figures."""


def results_page(results: Results) -> bytes:
    """The bytes of `report.html`. **Raises** `InputError` if matplotlib is not installed."""
    tables = {
        table.name: (table.title, html(table)) for table in all_tables(results)
    }  # fmt: skip
    first = next((name for name in _FIRST if name in tables), None)
    parts: list[tuple[str, str, str]] = []
    if first is not None:
        parts.append((first, *tables.pop(first)))
    parts.append(("figures", "Figures", "".join(_figures(results))))
    parts += [(name, title, body) for name, (title, body) in tables.items()]
    constants = "".join(
        f"<div><dt>{html_text(axis)}</dt><dd>{html_text(typeset_value(value))}</dd></div>"
        for axis, value in results.constants.items()
    )
    return page(
        "results",
        f"Results of {results.title}",
        {
            "counts": html_text(counts(results)),
            "constants": constants,
            "contents": "".join(f'<a href="#{n}">{html_text(title)}</a>' for n, title, _ in parts),
            "sections": "".join(
                f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">'
                f'<a href="#{name}">{html_text(title)}</a></h2>{body}</section>'
                for name, title, body in parts
            ),
        },
    )


def counts(results: Results) -> str:
    """Count the finished, failed and unfinished runs.

    **Arguments:**

    - `results`: see `read_results`.

    **Returns** one sentence.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> cells = {"lr-0.1": {"lr": 0.1}, "lr-1": {"lr": 1.0}}
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), cells)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     pathlib.Path(folder, "state").mkdir()
    ...     eqloop.run.save_sweep(folder, record)
    ...     eqloop.run.save_cell_result(folder, "lr-1", eqloop.run.CellResult("failed", "nan"))
    ...     eqloop.report.counts(eqloop.report.read_results([folder]))
    '0 of 2 runs have finished, 1 failed, 1 have not ended yet.'

    ```
    """
    finished, failed, total = len(results.finished), len(results.failed), len(results.cells)
    sentence = f"{finished} of {total} runs have finished" if total > 1 else "One run"
    sentence += f", {failed} failed" if failed else ""
    left = total - finished - failed
    return sentence + (f", {left} have not ended yet." if left else ".")


def _figures(results: Results) -> Iterator[str]:
    chosen = "" if results.chosen is None else " (at its best learning rate)"
    yield _figure(
        "accuracy",
        "Share solved against iterations",
        [picture(curves_figure(results, [split]), _curves_alt(results, split)) for split in SPLITS],
        "To the right of the shaded range the loop runs longer than in training: a line that still "
        "rises there extrapolates, and a line that falls overthinks. Lines are means over the "
        f"seeds of each group{chosen}; bands go from the worst seed to the best.",
    )
    if groups := results.beside:
        parts: tuple[Part, ...] = ("residual", "eigenvalues")
        yield _figure(
            "side-by-side",
            "Where the loops go",
            [
                picture(side_by_side_figure(groups, [part]), _part_alt(groups, part))
                for part in parts
            ],
            "The relative residual |f(z) − z| / |f(z)|, median over the examples and over the "
            "seeds, with a band from the lowest seed to the highest; and the leading eigenvalues "
            "of the Jacobian where the loops ended: inside the dashed unit circle a small "
            "disturbance dies out.",
        )
    known = sum(cell.rho_w_x is not None for cell in results.finished)
    if known:
        yield _figure(
            "rho",
            "Share solved against ρ(W<sub>x</sub>)",
            [
                picture(
                    rho_figure(results, [split]),
                    _points_alt(results, lambda c: c.rho_w_x, split, "ρ(W_x)"),
                )
                for split in SPLITS
            ],
            "A point is one run, after its last iteration. To the right of the dashed line the "
            "weights of the recall on the state expand by themselves: without outer normalisation "
            f"the loop then diverges. The radius is known for {known} of {len(results.finished)} "
            "runs (a model without recall has no such matrix).",
        )
    if list(located(results, exponent, "hard")):
        yield _figure(
            "lyapunov",
            "Hard examples solved against the leading Lyapunov exponent",
            [
                picture(
                    lyapunov_figure(results),
                    _points_alt(results, exponent, "hard", "the leading Lyapunov exponent"),
                )
            ],
            "A point is one run. To the left of the dashed line the loop settles, to the right it "
            "drifts or is chaotic; if stable loops extrapolate better, the points fall from left "
            "to right.",
        )


def _figure(name: str, title: str, pictures: Sequence[str], reading: str) -> str:
    """A figure with a caption; `title` is HTML."""
    return (
        f'<figure id="{name}"><div class="pictures">{"".join(pictures)}</div>'
        f"<figcaption><h3>{title}</h3><p>{html_text(reading)}</p></figcaption></figure>"
    )


def _curves_alt(results: Results, split: str) -> str:
    ends = [
        (mean, label(group.axes))
        for group in results.shown
        if (mean := group.share(split, "last").mean) is not None
    ]
    if not ends:
        return f"Share of {split} examples solved against iterations: not evaluated."
    (low, worst), (high, best) = min(ends), max(ends)
    return (
        f"Share of {split} examples solved against iterations, for {len(ends)} groups: after the "
        f"last iteration from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})."
    )


def _part_alt(groups: Sequence[Group], part: Part) -> str:
    what, name, path = {
        "residual": ("Residual against iterations", "settle step", "reachability.settle_step"),
        "eigenvalues": ("Leading eigenvalues of the Jacobian", "radius", "spectrum.radius"),
    }[part]
    values = [
        f"{label(group.axes)} "
        f"{typeset_number(group.estimate(lambda c: number_at(c.stability_report, path)).mean)}"
        for group in groups
    ]
    return f"{what}; {name}, mean of the medians: {', '.join(values)}."


def _points_alt(results: Results, of: Callable, split: str, what: str) -> str:
    values = [value for _, value, _ in located(results, of, split)]
    if not values:
        return f"Share of {split} examples solved against {what}: not known for any run."
    return (
        f"Share of {split} examples solved against {what}, a point for each of {len(values)} "
        f"runs, from {min(values):.3g} to {max(values):.3g}."
    )
