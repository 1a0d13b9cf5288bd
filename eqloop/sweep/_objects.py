"""Solvers and gradients from outside the package that the cells of a grid name."""

from collections.abc import Mapping
from typing import Any

from .._build import check_file, make_outside
from ..run import Spec
from ..train import Objects


def make_objects(spec: Spec, classes: Mapping[str, type]) -> tuple[Spec, dict[str, Any]]:
    """The spec that records the objects of a cell, and the objects.

    **Arguments:**

    - `spec`: the spec of the cell.
    - `classes`: `"solver"` and `"gradient"` -> class.

    **Raises** `InputError` for a class that the spec names and `classes` lacks.
    """
    objects = {option: make_outside(cls, spec.solver) for option, cls in classes.items()}
    custom = Objects(**objects)
    custom.method(spec)
    return custom.recorded(spec), objects


def check_code(option: str, made: Any, code: Mapping[str, str]) -> None:
    """**Raises** `InputError` if the file of the class of an object is not the one that a sweep
    recorded; `code` is reference of a class -> SHA-256."""
    for reference, sha256 in code.items():
        check_file(option, reference, f"sha256:{sha256}", made)
