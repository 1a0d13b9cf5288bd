"""The skeleton of a page, its pictures, and the writer of its files.

A page fetches nothing: it contains its style, script and pictures. Its content security policy
allows the one script by its hash, and keeps everything else from running or loading.
"""

import base64
import hashlib
import io
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from ..._errors import InputError
from ..._files import write_atomic
from .._escape import html_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(
    name: str, title: str, parts: Mapping[str, str], *, script: str = "", data: str = ""
) -> bytes:
    """A page: `NAME.html` with its parts filled in, inside the skeleton, with the style `NAME.css`.

    **Arguments:**

    - `name`: name of the template and of its style.
    - `title`: the title of the page, as text.
    - `parts`: place in the template -> HTML.
    - `script`: the only script that may run.
    - `data`: HTML in front of the script.

    **Returns** the bytes of the page.
    """
    # The policy wants the hash of the bytes between the tags.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = Template(packaged("page.html")).substitute(
        title=html_text(title),
        scripts_allowed=f"script-src 'sha256-{digest}'; " if script else "",
        style=packaged("page.css") + packaged(f"{name}.css"),
        body=Template(packaged(f"{name}.html")).substitute(title=html_text(title), **parts),
        scripts=f"{data}<script>{script}</script>\n" if script else "",
    )
    return text.encode()


def picture(figure: "Figure", alt: str) -> str:
    """A figure as an `<img>` that contains its SVG; `alt` describes it to a screen reader."""
    data = base64.b64encode(saved(figure, "svg")).decode()
    return f'<img alt="{html_text(alt)}" src="data:image/svg+xml;base64,{data}">'


def saved(figure: "Figure", kind: str) -> bytes:
    """The bytes of a figure in the format `kind`. Equal figures give equal bytes: they contain no
    time and no random names."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "eqloop"}):
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def packaged(name: str) -> str:
    """The text of a file in the folder of this module."""
    return resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")


def write_files(files: Mapping[Path, bytes]) -> list[Path]:
    """Write files atomically. **Returns** their paths. **Raises** `InputError` if a file cannot be
    written."""
    for path, data in files.items():
        try:
            write_atomic(path, [data])
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
    return list(files)
