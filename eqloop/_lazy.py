"""Names of a package that are imported on first use, and what they import with them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_on_use(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    **Arguments:**

    - `package`: its `__name__`.
    - `places`: name -> `"module:name"`, where the module is relative to the package.
    """

    def getattribute(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inner = places[name].partition(":")
        return getattr(importlib.import_module(module, package), inner)

    return getattribute
