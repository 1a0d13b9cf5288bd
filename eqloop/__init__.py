"""Looped transformers whose loop is solved, differentiated and examined by parts you can swap.

The public names are listed in `_contents.py` (new ones go there) and loaded on first use: importing
JAX takes about a second, and `eqloop --help` should not. So are the rooms, as `eqloop.train`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import InputError as InputError

if TYPE_CHECKING:
    from ._contents import *  # noqa: F403

__version__ = "0.2.0"


_ROOMS = (
    *("audit", "claims", "evaluate", "interop", "nn", "recursive", "report", "run", "stability"),
    *("starts", "sweep", "tasks", "train"),
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if not name.startswith("_"):
        contents = importlib.import_module("._contents", __name__)
        if hasattr(contents, name):
            return getattr(contents, name)
    raise AttributeError(f"module 'eqloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    contents = importlib.import_module("._contents", __name__)
    public = {name for name in vars(contents) if not name.startswith("_")}
    return sorted(public | {"InputError", "__version__", *_ROOMS})
