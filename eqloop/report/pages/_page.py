"""What pages have in common: the skeleton, the pictures in it, and how all of it is written.

Nothing is fetched: style, script and pictures are in the file, and a content security policy, which
names the one script there may be by its hash, keeps everything else from running or loading.
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
    """One page: `NAME.html` with `parts` (HTML) in it, in the skeleton, with `NAME.css`.

    **Arguments:**

    - `title`: text; also the `title` of `NAME.html`.
    - `script`: the only one that may run; `data`: HTML in front of it.
    """
    # The hash is of the bytes between the tags.
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
    """A figure as an `<img>` that holds its own SVG; `alt`: text for those who cannot see it."""
    data = base64.b64encode(saved(figure, "svg")).decode()
    return f'<img alt="{html_text(alt)}" src="data:image/svg+xml;base64,{data}">'


def saved(figure: "Figure", kind: str) -> bytes:
    """The bytes of a figure: equal figures give equal files, without a time or random names."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "eqloop"}):
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def packaged(name: str) -> str:
    """The text of a file that lies beside this one."""
    return resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")


def write_files(files: Mapping[Path, bytes]) -> list[Path]:
    """Write each file whole; returns their paths. **Raises** `InputError` where it cannot."""
    for path, data in files.items():
        try:
            write_atomic(path, [data])
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
    return list(files)
