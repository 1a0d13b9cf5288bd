"""The pickle of `torch.save`, interpreted without `pickle`.

A pickle is a program for a machine with a stack, which can import any name and call it. The machine
here has the instructions that `torch.save` writes for tensors and containers. It looks a name up in
the tables below and nowhere else, and calls only the functions of this file.
"""

import dataclasses
import io
import math
import pickletools
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from .._errors import InputError
from .._text import one_line
from ._torch_archive import Archive

_STORAGES: dict[str, np.dtype] = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": "<f8",
        "Float": "<f4",
        "Half": "<f2",
        "BFloat16": ml_dtypes.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
    }.items()
}
_INERT = {
    *("torch.Size", "torch.device", "torch.float32", "torch.bfloat16", "torch.float16"),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode", "typing.Any", "collections.defaultdict"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *(f"__builtin__.{name}" for name in ("dict", "list", "tuple", "set", "int", "float", "bool")),
    *("__builtin__.str", "__builtin__.unicode", "__builtin__.object"),
}
_INERT_PACKAGES = ("omegaconf.", "models.")
"""With `_INERT`, what EqR saves beside the weights: settings, random states, the carry."""

_FUNCTIONS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
}

_NAMES = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT"),
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SETITEM", "SETITEMS", "APPEND", "APPENDS", "MEMOIZE"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("BINPERSID", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
}
_INSTRUCTIONS = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_MOST_INSTRUCTIONS = 1_000_000
_MOST_AXES = 16
_LARGEST = 1 << 62
"""Above every size that a file can have; a pickle may contain integers of any length."""


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """Stands for an object of a class that the file names, or for that class; it has no content."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function that the machine knows."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    archive: Archive
    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor, whose bytes are read when `numpy.asarray` asks for them. As in PyTorch, `offset`
    and `strides` count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        numbers = self.storage.archive.record(f"data/{self.storage.key}").view(self.dtype)
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        array = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )
        return array.astype(dtype or self.dtype, copy=bool(copy))


def read_pickle(archive: Archive) -> Any:
    """The object that was saved. **Raises** `InputError` for anything but tensors, containers and
    placeholders."""
    return _Machine(archive).run(archive.pickle())


class _Machine:
    def __init__(self, archive: Archive):
        self.archive = archive
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for count, (name, argument) in enumerate(self.instructions(program)):
            if count >= _MOST_INSTRUCTIONS:
                raise self.archive.refused(f"has more than {count:,} pickle instructions")
            self.step(name, argument)
        if self.marks or len(self.stack) != 1:
            raise self.damaged("it does not end with one object")
        return self.stack[0]

    def instructions(self, program: bytes) -> Iterator[tuple[str, Any]]:
        """The instructions and their arguments, as `pickle` reads them: `pickletools.genops`
        replaces escapes in names, and decodes what is refused here."""
        stream = io.BytesIO(program)
        name = ""
        while name != "STOP":
            code = stream.read(1)
            if (opcode := _INSTRUCTIONS.get(code)) is None:
                raise self.damaged("it ends early" if not code else f"no instruction is {code}")
            if (name := opcode.name) not in _NAMES:
                raise self.archive.refused(f"has the pickle instruction {name}")
            try:
                if name == "GLOBAL":
                    argument = [stream.readline().removesuffix(b"\n").decode() for _ in range(2)]
                else:
                    argument = opcode.arg.reader(stream) if opcode.arg else None
            except ValueError as error:
                raise self.damaged(one_line(str(error)[:100])) from None
            yield name, argument

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        match name:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                push(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                push(argument)
            case "MARK":
                self.marks.append(len(self.stack))
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE":
                push(tuple(self.pop_to_mark()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise self.damaged("it refers to an object before making it")
                push(self.memo[argument])
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.fill([key, value])
            case "SETITEMS":
                self.fill(self.pop_to_mark())
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "BINPERSID":
                push(self.storage(self.pop()))
            case "GLOBAL":
                push(self.look_up(*argument))
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                push(self.look_up(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, called = self.pop(), self.pop()
                push(self.call(called, arguments))
            case "BUILD":
                self.pop()
                # The attributes of an `OrderedDict`, such as the versions of PyTorch's modules.
                if not isinstance(self.top(), dict | Placeholder):
                    raise self.refused_use("attributes", self.top())

    # --- the stack

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.damaged("an instruction lacks its operand")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.damaged("an instruction lacks its mark")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    # --- containers

    def fill(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Placeholder):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise self.refused_use("entries", target)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | Placeholder | None):
                raise self.refused_use("a name in a dictionary", key)
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise self.refused_use("elements", target)

    # --- names and what they do

    def look_up(self, module: Any, attribute: Any) -> Any:
        name = f"{module}.{attribute}" if {type(module), type(attribute)} == {str} else ""
        if name in _STORAGES:
            return _STORAGES[name]
        if name in _FUNCTIONS:
            return _Function(name)
        if name in _INERT or name.startswith(_INERT_PACKAGES):
            return Placeholder(name)
        what = one_line(name[:80]) or "a name that is no text"
        raise self.archive.refused(f"is refused, since its pickle names {what}: nothing was run")

    def call(self, called: Any, arguments: Any) -> Any:
        if isinstance(called, Placeholder):
            return called
        if not isinstance(called, _Function) or not isinstance(arguments, tuple):
            raise self.refused_use("a function", called)
        match called.name, arguments:
            case "collections.OrderedDict", ():
                return {}
            case "torch._utils._rebuild_parameter", (Tensor() as tensor, bool(), dict()):
                return tensor
            case "torch._utils._rebuild_tensor_v2", (
                _Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict(),
                *rest,
            ) if len(rest) < 2:  # fmt: skip
                return self.tensor(storage, offset, shape, strides)
        raise self.archive.refused(f"calls {called.name} with other arguments than torch.save")

    def tensor(self, storage: _Storage, offset: int, shape: tuple, strides: tuple) -> Tensor:
        numbers = (offset, *shape, *strides)
        if (
            len(shape) != len(strides)
            or len(shape) > _MOST_AXES
            or not all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
        ):
            raise self.damaged("a tensor has an impossible shape")
        count = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # A repeated number (a stride of zero) would let a small file ask for any amount of memory.
        if count > storage.count or (count and last >= storage.count):
            raise self.damaged(f"a tensor of shape {shape} does not fit into its storage")
        return Tensor(storage, offset, shape, strides)

    def storage(self, reference: Any) -> _Storage:
        match reference:
            case ("storage", np.dtype() as dtype, str(key), str(), int(count)):
                if self.archive.size(f"data/{key}") != count * dtype.itemsize:
                    raise self.damaged(f"storage {one_line(key[:20])} has another size")
                return _Storage(self.archive, key, dtype, count)
        raise self.damaged("a reference to a storage is not one of torch.save")

    # --- mistakes

    def damaged(self, why: str) -> InputError:
        return self.archive.damaged(f"data.pkl: {why}")

    def refused_use(self, what: str, target: Any) -> InputError:
        kind = target.name if isinstance(target, _Function) else f"a {type(target).__name__}"
        return self.archive.refused(f"uses {kind} as {what}")
