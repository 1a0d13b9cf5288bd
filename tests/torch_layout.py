"""Files in the layout of `torch.save`, written without PyTorch: the same pickle instructions and
names, and the same records of a zip file."""

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


_CLASSES = {name: type(name, (), {"__module__": "torch"}) for name in STORAGES.values()}


def _rebuild_tensor_v2(*arguments: Any) -> None: ...
def _rebuild_parameter(*arguments: Any) -> None: ...


_rebuild_tensor_v2.__module__ = _rebuild_parameter.__module__ = "torch._utils"


class Storage:
    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers


class Tensor:
    """Pickles as a tensor of PyTorch; by default one with all of its own storage."""

    def __init__(self, array: Any, storage: Storage | None = None, offset=0, strides=None):
        self.array = np.asarray(array)
        self.storage = storage or Storage(np.ascontiguousarray(self.array).reshape(-1))
        own = [s // self.array.itemsize for s in np.empty_like(self.array, order="C").strides]
        self.place = (offset, self.array.shape, tuple(own) if strides is None else strides)

    def __reduce__(self) -> Any:
        arguments = (self.storage, *self.place, False, collections.OrderedDict())
        return _rebuild_tensor_v2, arguments


class Parameter(Tensor):
    def __reduce__(self) -> Any:
        return _rebuild_parameter, (Tensor(self.array), True, collections.OrderedDict())


class StateDict(collections.OrderedDict):
    """Pickles as what `Module.state_dict` returns, which has an attribute."""

    def __reduce__(self) -> Any:
        metadata = {"_metadata": collections.OrderedDict({"": {"version": 1}})}
        return collections.OrderedDict, (), metadata, None, iter(self.items())


_PLACED: list[type] = []


def placed(name: str, **attributes: Any) -> Any:
    """An object of a class with this dotted name, which only exists while it is pickled."""
    module, _, attribute = name.rpartition(".")
    _PLACED.append(type(attribute, (), {"__module__": module}))
    made = _PLACED[-1]()
    vars(made).update(attributes)
    return made


@contextlib.contextmanager
def _pretended() -> Iterator[None]:
    """Modules with the names above, for as long as pickle looks its classes up in them."""
    made: dict[str, types.ModuleType] = {}
    for item in (*_CLASSES.values(), *_PLACED, _rebuild_tensor_v2, _rebuild_parameter):
        parts = item.__module__.split(".")
        for length in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:length]), types.ModuleType(parts[length - 1]))
        setattr(made[item.__module__], item.__name__, item)
    before = dict(sys.modules)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
        sys.modules.update(before)


def pickled(saved: Any) -> tuple[bytes, list[np.ndarray]]:
    """The program of `data.pkl`, and the storages."""
    storages: list[np.ndarray] = []
    keys: dict[int, str] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, Storage):
                return None
            if id(obj) not in keys:
                keys[id(obj)] = str(len(storages))
                storages.append(obj.numbers)
            cls = _CLASSES[STORAGES[obj.numbers.dtype.name]]
            return ("storage", cls, keys[id(obj)], "cuda:0", obj.numbers.size)

    out = io.BytesIO()
    with _pretended():
        Pickler(out, protocol=2).dump(saved)
    return out.getvalue(), storages


def records(program: bytes, storages: list[np.ndarray]) -> dict[str, bytes]:
    """The records of the file, in PyTorch's order."""
    return {
        "data.pkl": program,
        ".format_version": b"1",
        "byteorder": b"little",
        **{f"data/{key}": numbers.tobytes() for key, numbers in enumerate(storages)},
        "version": b"3\n",
        ".data/serialization_id": b"0" * 40,
    }


def write_records(path: Path, content: Mapping[str, bytes], **options: Any) -> Path:
    """Write the zip file; its bytes depend only on the content."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in content.items():
            entry = zipfile.ZipInfo(f"{path.stem}/{name}")
            entry.compress_type = file.compression
            entry.extra = b"FB" + (40).to_bytes(2, "little") + b"Z" * 40  # PyTorch's padding
            file.writestr(entry, data)
    return path


def save(saved: Any, path: Path) -> Path:
    """As `torch.save`: `Tensor` stands for tensors, everything else for itself."""
    return write_records(path, records(*pickled(saved)))


# --- the authors' checkpoints

COMPILED, PLAIN = "_orig_mod.model.inner.", "model.inner."


def trained(arrays: Mapping[str, np.ndarray], prefix: str = COMPILED) -> StateDict:
    """The state dict of a model with these arrays, as the authors save it."""
    return StateDict({prefix + name: Tensor(array) for name, array in arrays.items()})


def of_eqr(arrays: Mapping[str, np.ndarray], buffers: Mapping[str, np.ndarray], arch: Any) -> dict:
    """EqR's training checkpoint: its weights in training are not the averaged ones of `arrays`."""
    settings = placed("omegaconf.listconfig.ListConfig", _content=[1, 2])
    other = {name: array + 1 for name, array in arrays.items()}
    return {
        "step": 7,
        "model": trained(other | dict(buffers)),
        "optimizers": [{"state": {0: {"exp_avg": Tensor(np.ones(3, np.float32))}}}],
        "carry": placed("models.eqr.ModelCarry", steps=Tensor(np.zeros(2, np.int32))),
        "rng": {"torch": Tensor(np.zeros(16, np.uint8)), "cuda": None},
        "numpy": ("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0),
        "config": {"arch": {**arch, "loss": {"name": "x"}, "evaluators": settings}, "lr": 1e-4},
        "ema": {"mu": 0.999, "shadow": dict(trained(arrays, PLAIN))},
    }


def arrays_of(kind: str, *, mlp: bool = False, width=16, cells=12, tokens=2) -> tuple[dict, dict]:
    """Random parameters and buffers in the authors' naming."""
    rng = np.random.default_rng(0)
    sizes: dict[str, tuple[int, ...]] = {}
    sizes |= {"embed_tokens.embedding_weight": (7, width), "lm_head.weight": (7, width)}
    sizes |= {"q_head.weight": (2, width), "q_head.bias": (2,)}
    levels = ("H_level", "L_level") if kind == "hrm" else ("L_level",)
    for layer in (f"{level}.layers.{i}" for level in levels for i in range(2)):
        if mlp:
            sizes[f"{layer}.mlp_t.gate_up_proj.weight"] = (512, cells + tokens)
            sizes[f"{layer}.mlp_t.down_proj.weight"] = (cells + tokens, 256)
        else:
            sizes[f"{layer}.self_attn.qkv_proj.weight"] = (3 * width, width)
            sizes[f"{layer}.self_attn.o_proj.weight"] = (width, width)
        sizes[f"{layer}.mlp.gate_up_proj.weight"] = (512, width)
        sizes[f"{layer}.mlp.down_proj.weight"] = (width, 256)
    if kind == "fprm":
        sizes |= {f"L_level.alpha_{i}_param": (width,) for i in (1, 2)}
        sizes["L_level.conv.weight"] = (width, 1, 3, 3)
    params = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    buffers = {"puzzle_emb.weights": rng.normal(size=(3, width)).astype(np.float32)}
    if kind in ("trm", "hrm"):
        starts = rng.normal(size=(2, width)).astype(BFLOAT16)
        buffers |= {"H_init": starts[0], "L_init": starts[1]}
    return params, buffers
