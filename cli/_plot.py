"""`--plot FILE`: check the file before the work, write it after."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .. import InputError
from .._files import write_atomic
from ._output import notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


def check_plot(path: Path, option: str = "--plot", formats: Collection[str] = PICTURES) -> None:
    """**Raises** `InputError` if the figure could not be drawn or written to `path` later. `option`
    is the one that names it."""
    import importlib.util

    if path.suffix not in formats:
        raise InputError(f"{option} {path}: the name must end in {', '.join(formats)}")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"{option} needs matplotlib: pip install matplotlib")


def warn_no_matplotlib() -> None:
    """Note that a report has no page because matplotlib is missing."""
    notes().print("note: page and figures need matplotlib: pip install matplotlib", markup=False)


def save_plot(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the suffix of `path`."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    write_atomic(path, [content.getbuffer()])
