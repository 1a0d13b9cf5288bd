"""`--plot FILE`: check the file before the work, write it after."""

from pathlib import Path
from typing import TYPE_CHECKING

from .. import InputError
from ._output import notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """**Raises** `InputError` if the figure could not be drawn or written to `path` later."""
    import importlib.util

    if path.suffix not in _FORMATS:
        raise InputError(f"--plot {path}: the name must end in {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {path.parent}; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install 'eqloop[plot]'")


def warn_no_matplotlib() -> None:
    """Note that a report has no page because matplotlib is missing."""
    notes().print(
        "note: page and figures need matplotlib: pip install 'eqloop[plot]'", markup=False
    )


def save_plot(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the suffix of `path`."""
    from .._task import write_atomic

    with write_atomic(path) as file:
        figure.savefig(file, format=path.suffix[1:])
