"""Classes of solvers and gradients from outside the package, by the texts that name them.

JAX is imported only once there is such a class.
"""

from collections.abc import Iterable
from typing import Literal

from ._errors import InputError
from ._plugins import entry_point_classes, import_class, is_reference, load_class, origin
from .run import GRADIENTS, SOLVERS, is_outside


def outside_class(option: Literal["solver", "gradient"], text: str | None) -> type | None:
    """The class from outside the package that the value of an option names, its file run or its
    distribution imported; None where it names none.

    **Arguments:**

    - `option`: what the class is for.
    - `text`: `path/to/file.py:Class`, a name of the entry-point group `eqloop.solvers` or
      `eqloop.gradients`, or `module:Class`, as the spec of a run has it for a class that was
      imported. The package's own names come first.

    **Raises** `InputError` where the class cannot be loaded, or is none for that option.
    """
    if text is None or text in (SOLVERS if option == "solver" else GRADIENTS):
        return None
    if is_reference(text):
        cls = load_class(text, option)
    elif text in (offered := entry_point_classes(f"eqloop.{option}s")):
        cls = offered[text]()
    elif is_outside(text):
        cls = import_class(text, option)
    else:
        return None
    from ._adjoint import AbstractGradient
    from ._solver import AbstractSolver

    base = AbstractSolver if option == "solver" else AbstractGradient
    if not issubclass(cls, base):
        raise InputError(f"{option} {text}: the class must be an eqloop.{base.__name__}")
    return cls


def outside_classes(option: Literal["solver", "gradient"], texts: Iterable[str]) -> dict[str, type]:
    """Value of an option that can be repeated -> its class. **Raises** `InputError` as
    `outside_class` does, and for the name of a class of the package."""
    classes = {}
    for text in texts:
        if (cls := outside_class(option, text)) is None:
            raise InputError(f"--{option} {text}: is not a FILE.py:CLASS from outside eqloop")
        classes[text] = cls
    return classes


def reference_of(cls: type) -> str:
    """The text of a class from outside the package in a spec: `/path/to/file.py:Class`, or
    `module:Class` if it was imported."""
    placed = origin(cls)
    return placed[0] if placed else f"{cls.__module__}:{cls.__qualname__}"


def same_name(a: str, b: str) -> bool:
    """Whether two references name the same class, in any folder."""
    return a.replace("\\", "/").rpartition("/")[2] == b.replace("\\", "/").rpartition("/")[2]
