"""A stability report as one page that opens from disk: verdict, player, figures, numbers.

Nothing is fetched: style, script, pictures and boards are in the file, and a content security
policy that names this one script by its hash keeps everything else from running or loading.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from .._errors import InputError
from .._files import write_atomic
from ._stability_panels import PANELS, Panel
from ._stability_tables import Tables, extra_tables, main_table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT, PLAYER, PAGE = "report.json", "player.json", "report.html"
FORMAT = 1
"""Of the reports that this page understands (`eqloop.stability` writes it)."""

_AXES = {
    "reachability": ("Reachability", "Does the iteration get to a fixed point?"),
    "input_dependence": ("Input-dependence", "Does the fixed point depend on the input, smoothly?"),
    "geometry": ("Geometry", "Is going back through the loop well-behaved?"),
}
_TABLES = ("reachability", "input_dependence", "geometry", "spectrum", "verdict", "settings")
_AGREES = {
    True: ("✓", "Theory and measurement agree"),
    False: ("✗", "Theory and measurement disagree"),
    None: ("?", "Theory neither confirmed nor refuted"),
}


def write_stability(folder: Path) -> list[Path]:
    """Draw what was measured into `folder`, next to it: the page, and each figure as PNG.

    **Arguments:**

    - `folder`: holds `report.json` and, for a model with a task, `player.json`.

    **Returns** the files written, `report.html` first.

    **Raises** `InputError` where the report is missing, damaged or of another format, where
    nothing can be written, and where matplotlib is not installed.
    """
    report = read_stability(folder)
    player = _player(folder)
    files: dict[Path, bytes] = {}
    shown: list[str] = []
    try:
        for panel in PANELS:
            figure = panel.draw(report)
            files[folder / f"{panel.name}.png"] = _saved(figure, "png")
            shown.append(_figure(panel, _saved(figure, "svg"), panel.alt(report)))
        page = _page(report, player, "".join(shown))
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / REPORT}: damaged ({error!r}); {_AGAIN}") from error
    files = {folder / PAGE: page.encode(), **files}
    for path, data in files.items():
        try:
            write_atomic(path, [data])
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
    return list(files)


_AGAIN = "measure it again: eqloop stability RUN"


def read_stability(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    report = _json(path)
    if not isinstance(report, dict) or not isinstance(report.get("settings"), dict):
        raise InputError(f"{path}: not a stability report; {_AGAIN}")
    found = report["settings"].get("format")
    if found != FORMAT:
        raise InputError(f"{path}: format {found!r}, where {FORMAT} is understood; {_AGAIN}")
    for name in _TABLES:
        if not isinstance(report.get(name), dict):
            raise InputError(f"{path}: damaged, has no table {name!r}; {_AGAIN}")
    return report


def _player(folder: Path) -> dict[str, Any]:
    path = folder / PLAYER
    if not path.exists():
        return {"examples": []}
    player = _json(path)
    if not isinstance(player, dict) or not isinstance(player.get("examples"), list):
        raise InputError(f"{path}: damaged, has no list of examples; {_AGAIN}")
    return player


def _json(path: Path) -> Any:
    """What a file holds, NaN and infinities as None."""
    try:
        return json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except ValueError as error:
        raise InputError(f"{path}: damaged, not JSON ({error}); {_AGAIN}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from None


def _page(report: Tables, player: Mapping[str, Any], figures: str) -> str:
    script = _file("player.js")
    sections = "".join(
        f"<section><h2>{escape(title)}</h2>{html}</section>" for title, html in extra_tables(report)
    )
    settings = {name: each for name, each in report["settings"].items() if name != "format"}
    run = settings.get("run")
    title = f"Stability of {run}" if run else "Stability of a loop"
    return Template(_file("stability.html")).substitute(
        title=escape(title),
        style=_file("stability.css"),
        # The hash is of the bytes between the tags.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        script=script,
        verdict="".join(_verdict(report)),
        settings="".join(_settings(settings)),
        player=_file("player.html") if player["examples"] else "",
        # No tag can end or begin inside the element.
        frames=json.dumps(player).replace("<", "\\u003c"),
        figures=figures,
        numbers=main_table(report),
        extra=sections,
    )


def _verdict(report: Tables) -> Iterator[str]:
    """One card for each axis, and never one score for all."""
    predicted = report["predicted"]
    for axis, statement in report["verdict"].items():
        title, question = _AXES.get(axis, (axis, ""))
        theory = '<p class="theory">No theory speaks of this map.</p>'
        if claim := (predicted or {}).get(axis):
            sign, words = _AGREES[claim["agrees"]]
            theory = (
                f'<p class="theory"><strong><span aria-hidden="true">{sign}</span> {words}.'
                f"</strong> Predicted: {escape(claim['claim'])}; "
                f"{escape(claim['because'])}.</p>"
            )
        yield (
            f"<article><h3>{escape(title)}</h3><p>{escape(question)}</p>"
            f'<p class="verdict">{escape(statement["verdict"])}</p>'
            f'<p class="because">{escape(statement["because"])}</p>{theory}</article>'
        )


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings({f"{name}.{key}": each for key, each in value.items()})
        elif value is not None:
            shown = number(value) if isinstance(value, float) else str(value)
            yield f"<div><dt>{escape(name)}</dt><dd>{escape(shown)}</dd></div>"


def _figure(panel: Panel, picture: bytes, alt: str) -> str:
    data = base64.b64encode(picture).decode()
    return (
        f'<figure id="{panel.name}">'
        f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption><h3>{escape(panel.title)}</h3>"
        f'<p class="formula">{panel.formula}</p><p>{panel.reading}</p></figcaption></figure>'
    )


def _saved(figure: "Figure", kind: str) -> bytes:
    import matplotlib

    out = io.BytesIO()
    # Equal reports give equal files: no time, no random names.
    with matplotlib.rc_context({"svg.hashsalt": "eqloop"}):
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _file(name: str) -> str:
    return resources.files("eqloop.report").joinpath(name).read_text("utf-8")
