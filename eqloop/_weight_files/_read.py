"""One reader of weights, which recognises the format by the first bytes of a file."""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import InputError
from .._files import open_regular
from .._safetensors import is_safetensors, read_safetensors
from ._torch_archive import SAVE_AGAIN, Archive
from ._torch_pickle import read_pickle

_OTHER_FORMATS = {
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19": f"is of PyTorch before 1.6; {SAVE_AGAIN}",
    b"version https://git-lfs": "is a pointer of Git LFS and not the file: git lfs pull gets it",
}
"""The first bytes of files that are often taken for the two formats."""


def read_weights(path: str | os.PathLike[str]) -> Any:
    """Read the tensors of a file of PyTorch (`torch.save`, the zip format of version 1.6 and later)
    or of safetensors. The name of the file does not matter.

    Nothing in the file is run. A pickle is a program: this reader knows only those instructions
    that make tensors and plain containers, and never imports or calls what the file names. The file
    is mapped into memory, so that only the tensors that are used are read.

    **Arguments:**

    - `path`: the file.

    **Returns** what was saved: dictionaries, lists, tuples, numbers and text as they are; a tensor
    as an object with `shape` and `dtype`, of which `numpy.asarray` makes an array that cannot be
    written to (with dtype `ml_dtypes.bfloat16` for bfloat16). Objects that the authors of EqR save
    beside their weights (of omegaconf, NumPy and their own `models`) become placeholders without
    content.

    **Raises** `InputError` if the file cannot be read, has another format, is damaged, or names
    anything else than tensors and containers; `numpy.asarray` raises it if the bytes of a tensor of
    PyTorch do not have their CRC-32.

    ```python
    >>> import eqloop, numpy as np, pathlib, safetensors.numpy, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.safetensors")
    ...     safetensors.numpy.save_file({"lm_head.weight": np.eye(3)}, path)
    ...     weights = eqloop.interop.read_weights(path)
    >>> np.asarray(weights["lm_head.weight"]).sum()
    np.float64(3.0)

    ```
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            start = file.read(32)
            if start.startswith(b"PK\x03\x04"):
                return read_pickle(Archive(path, file, _mapped(file)))
            if is_safetensors(start, os.fstat(file.fileno()).st_size):
                return read_safetensors(path, _mapped(file))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    for first, what in _OTHER_FORMATS.items():
        if start.startswith(first):
            raise InputError(f"{path} {what}")
    raise InputError(
        f"{path} {'is no file' if start else 'is empty, and no file'} of PyTorch or safetensors; "
        "download it again"
    )


def _mapped(file: Any) -> np.ndarray:
    """The bytes of a file that is not empty; it may be closed afterwards."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(memory, np.uint8)
