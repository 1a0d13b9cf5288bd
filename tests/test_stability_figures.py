"""The figures of an invented stability report."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from stability_example import a_report, report_tables, without_numbers

from eqloop._schema import from_table
from eqloop.report.figures._basins_figure import basins_figure
from eqloop.report.figures._plane_figures import plane_figure, planes_figure
from eqloop.report.figures._stability_figures import (
    distinct_figure,
    eigenvalue_figure,
    fixed_points_figure,
    gradient_norm_figure,
    residual_figure,
    sensitivity_figure,
    solved_figure,
)
from eqloop.report.pages._census_panels import CENSUS_PANELS
from eqloop.report.pages._plane_panels import PLANE_PANELS
from eqloop.report.pages._stability_panels import PANELS
from eqloop.stability import StabilityReport


def drawn(figure: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """Return the only panel of a figure, its lines by label, and its texts."""
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines}
    return axes, lines, [text.get_text() for text in axes.texts]


def test_residual_has_median_band_examples_and_tolerance():
    report = a_report()
    axes, lines, _ = drawn(residual_figure(report))
    part = report.reachability
    np.testing.assert_allclose(lines["median"].get_ydata(), part.residual.median)
    np.testing.assert_allclose(lines["median"].get_xdata(), part.iterations)
    assert set(lines["tolerance"].get_ydata()) == {part.tolerance}
    assert len(axes.lines) == len(part.curves) + 2
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert len(axes.collections) == 1


def test_eigenvalues_are_in_the_plane_with_the_unit_circle():
    report = a_report()
    axes, lines, _ = drawn(eigenvalue_figure(report))
    circle = lines["unit circle"]
    np.testing.assert_allclose(np.hypot(circle.get_xdata(), circle.get_ydata()), 1)
    assert axes.get_aspect() == 1
    points = np.concatenate(report.spectrum.eigenvalues)
    markers = {collection.get_label(): collection for collection in axes.collections}
    assert len(markers["eigenvalue"].get_offsets()) == (points[:, 2] == 1).sum()
    assert len(markers["did not converge"].get_offsets()) == (points[:, 2] == 0).sum()
    shapes = [collection.get_paths()[0].vertices.shape for collection in markers.values()]
    assert shapes[0] != shapes[1]  # the markers differ without colour


def test_gradient_norm_and_sensitivity():
    report = a_report()
    axes, lines, _ = drawn(gradient_norm_figure(report))
    part = report.geometry
    np.testing.assert_allclose(lines["median"].get_ydata(), part.gradient_norm.median)
    assert lines["median"].get_xdata()[0] == 0
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")

    axes, lines, _ = drawn(sensitivity_figure(report))
    part = report.input_dependence
    (implicit,) = (line for label, line in lines.items() if "I − J" in label)
    assert set(implicit.get_ydata()) == {part.implicit.median}


def test_solved_shades_the_iterations_of_training():
    report = a_report()
    axes, lines, _ = drawn(solved_figure(report))
    part = report.reachability.accuracy
    assert part is not None
    assert part.trained is not None
    for name, shares in part.splits.items():
        np.testing.assert_allclose(lines[name].get_ydata(), shares)
    assert lines["test"].get_marker() != lines["hard"].get_marker()
    (shade,) = axes.patches
    assert [shade.get_x(), shade.get_x() + shade.get_width()] == list(part.trained)
    reachability = dataclasses.replace(report.reachability, accuracy=None)
    report = dataclasses.replace(report, reachability=reachability)
    assert drawn(solved_figure(report))[2] == ["this map has no task to solve"]


def test_fixed_points_and_how_many_are_distinct():
    report = a_report()
    axes, _, _ = drawn(fixed_points_figure(report))
    points = [point for point in report.input_dependence.points if point is not None]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), points)
    _, lines, _ = drawn(distinct_figure(report))
    diagonal = lines["one for every input"]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(lines["measured"].get_ydata(), report.input_dependence.clusters)


def test_planes_have_orbits_points_and_unstable_directions():
    report = a_report()
    assert report.planes is not None
    assert report.points is not None
    panels: list[Any] = planes_figure(report).axes
    first, second = panels
    lines = {str(line.get_label()): line for line in first.lines}
    plane = report.planes[0]
    np.testing.assert_allclose(lines["orbit from own start"].get_xydata(), plane.own)
    np.testing.assert_allclose(lines["orbit from noise"].get_xydata(), plane.others[0][1:])
    # A direction goes through its saddle, and is as long as its part in the plane.
    ends = lines["unstable direction"].get_xydata()
    saddle = report.points[1]
    np.testing.assert_allclose(ends.mean(axis=0), saddle.place or [])
    [direction] = np.array(saddle.directions)
    assert abs(np.linalg.det([ends[1] - ends[0], direction])) < 1e-12
    shorter = dataclasses.replace(saddle, directions=[(direction / 2).tolist()])
    halved: Any = planes_figure(dataclasses.replace(report, points=[shorter], edges=None))
    [half] = [line for line in halved.axes[0].lines if line.get_label() == "unstable direction"]
    np.testing.assert_allclose(2 * np.ptp(half.get_xydata(), axis=0), np.ptp(ends, axis=0))
    # The kinds differ without colour.
    markers = {
        str(part.get_label()): np.asarray(part.get_paths()[0].vertices).shape
        for part in first.collections
    }
    assert set(markers) == {"stable", "saddle", "edge state"}
    assert len(set(markers.values())) == 3
    assert not second.collections  # this point has no place
    assert "(83\N{NO-BREAK SPACE}%)" in first.get_title()


def test_a_point_far_from_the_orbits_is_counted_and_not_drawn():
    report = a_report()
    assert report.planes is not None
    assert report.points is not None
    far = dataclasses.replace(report.points[0], place=[100.0, 0.0])
    figure, places = plane_figure(dataclasses.replace(report, points=[far]), report.planes[0])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["1 outside"]
    assert axes.get_xlim()[1] < 10
    assert len(places) == len(report.planes[0].own)


@pytest.mark.parametrize("panel", [*PANELS, *PLANE_PANELS], ids=lambda panel: panel.name)
def test_a_panel_without_numbers_says_so(panel):
    report = without_numbers()
    figure = panel.draw(report)
    (text,) = drawn(figure)[2]
    assert re.match("no|this map has no", text)
    figure.canvas.draw()
    assert panel.alt(report)
    assert "None" not in panel.alt(report)
    assert "nan" not in panel.alt(report).lower()


@pytest.mark.parametrize("panel", CENSUS_PANELS, ids=lambda panel: panel.name)
def test_a_census_without_numbers_says_so(panel):
    census = without_numbers().census
    figure = panel.draw(census)
    (text,) = drawn(figure)[2]
    assert text.startswith("no")
    figure.canvas.draw()
    assert "nan" not in panel.alt(census).lower()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_one_example_with_exact_zeros_is_drawn(panel):
    """Values without a logarithm cause no warning, and neither does a single point."""
    tables = report_tables()
    reach, dependence = tables["reachability"], tables["input_dependence"]
    reach["curves"] = reach["curves"][:1]
    for band in (
        reach["residual"],
        dependence["sensitivity"],
        tables["geometry"]["gradient_norm"],
    ):
        for values in band.values():
            values[-1] = 0.0
    dependence |= {"points": dependence["points"][:1], "inputs": [1], "clusters": [1]}
    reach["accuracy"] = {"iterations": [1], "splits": {"test": [0.5]}, "trained": None}
    panel.draw(from_table(StabilityReport, tables)).canvas.draw()


def test_the_basins_are_bars_of_whole_height():
    """Each bar adds up to all starts; an end that no start has is left out."""
    basins = a_report().basins
    assert basins is not None
    (axes,) = basins_figure(basins).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1", "random"]
    assert [bars.get_label() for bars in axes.containers] == ["own", "other"]
    own, other = ([bar.get_height() for bar in bars] for bars in axes.containers)
    np.testing.assert_allclose(own, [100 * 180 / 192, 100 * 60 / 192, 100 * 20 / 192])
    np.testing.assert_allclose(np.add(own, other), 100)
    assert len({bars[0].get_hatch() for bars in axes.containers}) == 2
