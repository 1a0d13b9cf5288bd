"""The page of a stability report: verdicts, player, figures and numbers in one file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..._numbers import typeset_number
from ..._stability_report import StabilityReport
from ...run import REPORT, STABILITY_AGAIN, Player, read_player, read_stability
from .._escape import html_text
from ..figures._plane_figures import plane_figure
from ..tables._stability_tables import extra_tables, main_table
from ._basins_panel import BASINS_PANEL
from ._census_panels import CENSUS_PANELS
from ._page import packaged, page, picture, saved, write_files
from ._plane_panels import PLANE_PANELS, plane_alt
from ._stability_panels import PANELS, Panel

PAGE = "report.html"

_AXES = {
    "reachability": ("Reachability", "Does the iteration get to a fixed point?"),
    "input_dependence": ("Input-dependence", "Does the fixed point depend on the input, smoothly?"),
    "geometry": ("Geometry", "Is back-propagation through the loop well-behaved?"),
}
_AGREES = {
    True: ("✓", "Theory and measurement agree"),
    False: ("✗", "Theory and measurement disagree"),
    None: ("?", "Theory neither confirmed nor refuted"),
}


def write_stability(folder: Path) -> list[Path]:
    """Draw a stability report: write its page and its figures as PNG into its folder.

    **Arguments:**

    - `folder`: contains `report.json` and, for a model with a task, `player.json`.

    **Returns** the paths of the files, `report.html` first.

    **Raises** `InputError` if the report is missing, damaged or of another format, if a file cannot
    be written, and if matplotlib is not installed.
    """
    report = read_stability(folder)
    player = read_player(folder)
    files: dict[Path, bytes] = {}
    figures: list[str] = []
    try:
        drawn: list[tuple[Panel[Any], Any, str]] = [
            (panel, panel.draw(report), panel.alt(report)) for panel in PANELS
        ]
        if (census := report.census) is not None:
            drawn += [(panel, panel.draw(census), panel.alt(census)) for panel in CENSUS_PANELS]
        if report.planes is not None:
            drawn += [(panel, panel.draw(report), panel.alt(report)) for panel in PLANE_PANELS]
        if (basins := report.basins) is not None:
            drawn.append((BASINS_PANEL, BASINS_PANEL.draw(basins), BASINS_PANEL.alt(basins)))
        for panel, figure, alt in drawn:
            files[folder / f"{panel.name}.png"] = saved(figure, "png")
            figures.append(_figure(panel, picture(figure, alt)))
        html = _page(report, player, "".join(figures))
    except InputError:
        raise
    except (LookupError, ValueError) as error:
        raise InputError(f"{folder / REPORT}: damaged ({error!r}); {STABILITY_AGAIN}") from error
    return write_files({folder / PAGE: html, **files})


def _page(report: StabilityReport, player: Player, figures: str) -> bytes:
    sections = "".join(
        f"<section><h2>{html_text(title)}</h2>{html}</section>"
        for title, html in extra_tables(report)
    )
    settings = {name: value for name, value in report.settings.items() if name != "format"}
    run = settings.get("run")
    parts = {
        "verdict": "".join(_verdict(report)),
        "warning": _warning(report),
        "settings": "".join(_settings(settings)),
        "player": packaged("player.html") if player.examples else "",
        "figures": figures,
        "numbers": main_table(report),
        "extra": sections,
    }
    # Without "<" no tag can begin or end inside the element.
    frames = json.dumps(_played(report, player)).replace("<", "\\u003c")
    return page(
        "stability",
        f"Stability of {run}" if run else "Stability of a loop",
        parts,
        script=packaged("player.js"),
        data=f'<script type="application/json" id="frames">{frames}</script>\n',
    )


def _played(report: StabilityReport, player: Player) -> dict[str, Any]:
    """What the script of the player needs: the frames, and for an example with a plane its picture
    and where the orbit is in it."""
    tables = player.tables()
    planes = {plane.example: plane for plane in report.planes or []}
    for played, table in zip(player.examples, tables["examples"], strict=True):
        if (plane := planes.get(-1 if played.example is None else played.example)) is not None:
            figure, places = plane_figure(report, plane)
            table["plane"] = {
                "picture": picture(figure, plane_alt(report, plane)),
                "iterations": plane.iterations,
                "places": places,
            }
    return tables


def _verdict(report: StabilityReport) -> Iterator[str]:
    """One card per axis; there is no overall score."""
    for axis, statement in report.verdict.items():
        title, question = _AXES.get(axis, (axis, ""))
        theory = '<p class="theory">No theory speaks of this map.</p>'
        if claim := (report.predicted or {}).get(axis):
            sign, words = _AGREES[claim.agrees]
            theory = (
                f'<p class="theory"><strong><span aria-hidden="true">{sign}</span> {words}.'
                f"</strong> Predicted: {html_text(claim.claim)}; "
                f"{html_text(claim.because)}.</p>"
            )
        yield (
            f"<article><h3>{html_text(title)}</h3><p>{html_text(question)}</p>"
            f'<p class="verdict">{html_text(statement.verdict)}</p>'
            f'<p class="because">{html_text(statement.because)}</p>{theory}</article>'
        )


def _warning(report: StabilityReport) -> str:
    """A line if rounding changes the exponents."""
    if (warning := report.precision_warning) is None:
        return ""
    return f'<p class="warning"><strong>Precision:</strong> {html_text(warning)}.</p>'


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings({f"{name}.{key}": item for key, item in value.items()})
        elif value is not None:
            text = typeset_number(value) if isinstance(value, float) else str(value)
            yield f"<div><dt>{html_text(name)}</dt><dd>{html_text(text)}</dd></div>"


def _figure(panel: Panel, image: str) -> str:
    return (
        f'<figure id="{panel.name}">{image}'
        f"<figcaption><h3>{html_text(panel.title)}</h3>"
        f'<p class="formula">{panel.formula}</p><p>{panel.reading}</p></figcaption></figure>'
    )
