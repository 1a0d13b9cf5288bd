"""The configuration that HRM, TRM and FPRM write beside their checkpoints, `all_config.yaml`."""

import os
import re
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._tables import read_text
from .._text import one_line

CONFIG = "all_config.yaml"
"""The name that the authors' programs give it."""
_REAL = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""A number that PyYAML takes for text, since it has no point or no sign: `1e-3`."""
_LONGEST = 1 << 20
"""Characters of a file that is parsed: those of the authors have about 1,500."""


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a model from a YAML file: those under `arch:`, or those of the whole file
    if it has no such entry.

    **Arguments:**

    - `path`: the file.

    **Returns** the fields by name.

    **Raises** `InputError` if the file cannot be read or is not such a table, or PyYAML is not
    installed.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "all_config.yaml")
    ...     _ = path.write_text("arch:\\n  H_cycles: 3\\n  pos_encodings: rope\\nseed: 0\\n")
    ...     eqloop.interop.read_config(path)
    {'H_cycles': 3, 'pos_encodings': 'rope'}

    ```
    """
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"reading {path} needs PyYAML: pip install pyyaml, or give its fields by --set"
        ) from None
    text = read_text(Path(path))
    if len(text) > _LONGEST:
        raise InputError(f"{path} has more than {_LONGEST:,} characters: it is no configuration")
    try:
        tables = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML ({one_line(str(error)[:100])})") from None
    fields = tables.get("arch", tables) if isinstance(tables, dict) else None
    if not isinstance(fields, dict):
        raise InputError(f"{path} has no table of the fields of a model, arch:")
    return {
        name: float(value) if isinstance(value, str) and _REAL.fullmatch(value) else value
        for name, value in fields.items()
        if isinstance(name, str)
    }
