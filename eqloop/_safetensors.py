"""safetensors: the length of a JSON header, the header, then the bytes of the tensors."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from ._errors import InputError
from ._text import one_line

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def serialise(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The content of a file with these arrays, in their order. The writer of `safetensors` orders
    the metadata at random, and makes a copy of all arrays first.

    **Raises** `InputError`, before the first byte, for an array of another dtype than those above.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    start = 0
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise InputError(
                f"{name} is {array.dtype}, which is not written: cast it to one of "
                + ", ".join(map(str, _NAMES))
            )
        offsets = [start, start := start + array.nbytes]
        shape = list(array.shape)
        header[name] = {"dtype": _NAMES[array.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8 bytes
    beginning = len(text).to_bytes(8, "little") + text
    return itertools.chain([beginning], map(raw_bytes, arrays.values()))


def raw_bytes(array: np.ndarray) -> memoryview:
    """The numbers of an array as the file holds them: row by row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `start` has such a header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read_safetensors(path: Path, memory: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the file as views of `memory`, its bytes. `safetensors` checks the header, but
    it does not make arrays of bfloat16 without PyTorch."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is damaged or was cut off: {one_line(str(error)[:100])}; download it again"
        ) from None
    length = int.from_bytes(bytes(memory[:8]), "little")
    header = json.loads(bytes(memory[8 : 8 + length]))
    arrays = {}
    for name in names:
        dtype, shape, (start, end) = (header[name][k] for k in ("dtype", "shape", "data_offsets"))
        if dtype not in _DTYPES:
            raise InputError(f"{path}: {one_line(name[:80])} has the unusual dtype {dtype}")
        content = memory[8 + length :][start:end]
        arrays[name] = content.view(_DTYPES[dtype]).reshape(shape)
    return arrays
