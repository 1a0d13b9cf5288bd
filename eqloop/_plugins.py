"""Classes from outside the package: `path/to/file.py:Name`, and the entry points of distributions.

The code of a file runs when its class is loaded, and not before: nothing here looks for files.
"""

import functools
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

from ._errors import InputError
from ._fields import nearest
from ._files import read_bytes
from ._text import one_line


def is_reference(text: str) -> bool:
    """Whether `text` names a class of a file, as `file.py:Name`, and not something by its name."""
    return ".py:" in text or text.endswith(".py")


def load_class(reference: str, kind: str) -> type:
    """The class that `reference` names, after its file was run.

    A file of the same content at the same path runs once, so that its class stays one class.

    **Arguments:**

    - `reference`: `path/to/file.py:Name`; the path is absolute or relative to the current folder.
    - `kind`: what the class is for, as a message says it: "task", "solver", "gradient".

    **Raises** `InputError`, in one line, where the file cannot be read, an error ends it, or it has
    no class of that name.
    """
    path, name = _parts(reference, kind)
    module = _module(path, _read(path, kind), kind)
    made = getattr(module, name, None)
    if not isinstance(made, type):
        own = [key for key, value in vars(module).items() if _is_defined_in(module, value)]
        hint = nearest(name, own) if own else "; it defines no class"
        raise InputError(f"{kind} {reference}: {path} has no class {name}{hint}")
    return made


def origin(cls: type) -> tuple[str, str] | None:
    """The absolute reference `/path/to/file.py:Name` of a class from `load_class`, and the SHA-256
    of the content that was run; None for any other class."""
    loader = getattr(getattr(sys.modules.get(cls.__module__), "__spec__", None), "loader", None)
    if not isinstance(loader, _Loader):
        return None
    return f"{loader.path}:{cls.__qualname__}", loader.digest


def source_digest(cls: type) -> str | None:
    """What decides what the code of a class outside of this package does: a hash of the files that
    define it and its bases. "" for a class of this package, which has versions; None where a file
    is not known, as for a class that was typed into a notebook.
    """
    digest = hashlib.sha256()
    outside = [base for base in cls.__mro__ if not _is_of_a_library(base)]
    for base in outside:
        loaded = origin(base)
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if loaded is not None:
            digest.update(loaded[1].encode())
        elif file is not None and Path(file).is_file():
            digest.update(hashlib.sha256(read_bytes(Path(file))).hexdigest().encode())
        else:
            return None
    return digest.hexdigest() if outside else ""


def _is_of_a_library(cls: type) -> bool:
    top = cls.__module__.partition(".")[0]
    return top == __name__.partition(".")[0] or top in sys.stdlib_module_names - {"__main__"}


def entry_point_classes(group: str) -> dict[str, Callable[[], type]]:
    """The classes that installed distributions offer under an entry-point group: name -> a function
    that imports and returns the class.

    Listing imports nothing. The function **raises** `InputError` where the import fails, or gives
    what is no class.
    """
    points = importlib.metadata.entry_points(group=group)
    return {
        point.name: functools.partial(
            _imported,
            f"{point.module}:{point.attr}",
            f"the entry point {point.name} = {point.value} of {group}",
        )
        for point in points
    }


def import_class(reference: str, kind: str) -> type:
    """The class `module:Class` of an installed module, imported. **Raises** `InputError` where the
    import fails, or gives what is no class; `kind` as for `load_class`."""
    return _imported(reference, f"{kind} {reference}")


def _imported(reference: str, where: str) -> type:
    try:
        made = pkgutil.resolve_name(reference)
    except Exception as error:
        raise InputError(f"{where} cannot be imported ({_in_words(error)})") from error
    if not isinstance(made, type):
        raise InputError(f"{where} names no class")
    return made


def _parts(reference: str, kind: str) -> tuple[Path, str]:
    """The file and the name of the class."""
    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise InputError(f"{kind} {reference}: a class of a file is written path/to/file.py:Name")
    return Path(file).absolute(), name


def _read(path: Path, kind: str) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{kind} file {path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{kind} file {path}: cannot be read ({error.strerror})") from None


class _Loader(importlib.abc.SourceLoader):
    """Runs the bytes that were hashed, and neither reads nor writes bytecode beside the file."""

    def __init__(self, path: Path, content: bytes):
        self.path = path
        self.content = content
        self.digest = hashlib.sha256(content).hexdigest()

    def get_filename(self, fullname: str) -> str:
        del fullname
        return str(self.path)

    def get_data(self, path: str) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        del path
        return self.content


def _module(path: Path, content: bytes, kind: str) -> types.ModuleType:
    loader = _Loader(path, content)
    place = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()
    # Dataclasses and type hints look their module up in `sys.modules`, under a name of its own.
    name = f"eqloop_file_{place[:8]}_{loader.digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = _line(error, path)
        raise InputError(f"{kind} file {path}{line}: {_in_words(error)}") from error
    return module


def _is_defined_in(module: types.ModuleType, value: object) -> bool:
    return inspect.isclass(value) and value.__module__ == module.__name__


def _line(error: BaseException, path: Path) -> str:
    """`:LINE`, the last line of `path` that an error passed."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _in_words(error: BaseException) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return one_line(f"{type(error).__name__}: {message}")
