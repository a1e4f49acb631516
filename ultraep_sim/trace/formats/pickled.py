"""What ``torch.save`` pickles, rebuilt without unpickling: nothing is imported, nothing is called.

A pickle is a program. This reads its opcodes with the standard library's disassembler and follows
the few that build dictionaries, lists, tuples, texts and numbers; the only "calls" it knows are the
ones by which a tensor of a ``.pt`` file says where its bytes lie. Whatever else a pickle asks for
is refused by name, so a malicious one does nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .limits import refuse

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
"""Storage classes of torch and the type of their bytes."""

_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_ORDERED = ("collections", "OrderedDict")
_SIZE = ("torch", "Size")


@dataclass(frozen=True)
class _Name:
    """A global that a pickle names: compared, never looked up."""

    module: str
    name: str

    @property
    def pair(self) -> tuple[str, str]:
        return self.module, self.name


@dataclass(frozen=True)
class Storage:
    """Where the bytes of tensors lie: member ``data/<key>``, so many elements."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class TensorPlace:
    """A tensor as the pickle describes it: a strided window of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


# These calls give back their first argument, which must be of this kind.
_FIRST_OF: dict[tuple[str, str], type] = {_PARAMETER: TensorPlace, _SIZE: tuple}


def read_pickle(data: bytes, path: Path) -> Any:
    """Rebuild the plain values and tensor descriptions of a pickle.

    Parameters
    ----------
    data : bytes
    path : Path
        Named in errors.

    Returns
    -------
    object
        dict, list, tuple, str, int, float, bool, None, bytes and `TensorPlace` only.

    Raises
    ------
    TraceError
        If the pickle asks for anything else. ValueError and its like on damaged ones, for
        `limits.damaged` to word.
    """
    machine = _Machine(path)
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STOP":
            break
        act: _Act | None = _ACTS.get(opcode.name)
        if act is None:
            _refuse(path, f"pickle opcode {opcode.name}")
        act(machine, argument)
    return machine.pop()


def _refuse(path: Path, what: str) -> NoReturn:
    refuse(
        "asks for more than tensors, dictionaries, lists, numbers and texts; nothing was run",
        path,
        "pickle",
        what,
        "save plain tensors: torch.save({name: tensor, ...}, file)",
    )


class _Machine:
    """Stack and memo of a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("the pickle takes from an empty stack")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError("the pickle fills what is no container")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("the pickle lacks a mark")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def put(self, index: Any) -> None:
        if not self.stack:
            raise ValueError("the pickle remembers an empty stack")
        self.memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self.memo))

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[int(index)])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def tuple_of(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def marked_tuple(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def appends(self, _: Any) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def append(self, _: Any) -> None:
        item = self.pop()
        self.top(list).append(item)

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._fill([key, value])

    def set_items(self, _: Any) -> None:
        self._fill(self.pop_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nested tuples as keys could be made to hash for ever.
            if not isinstance(key, (str, int, float, bool)):
                _refuse(self.path, f"a {type(key).__name__} as key")
            target[key] = value

    def named(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self.stack.append(_allowed(module, name, self.path))

    def stack_named(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_allowed(str(module), str(name), self.path))

    def persistent(self, _: Any) -> None:
        place = self.pop()
        if not (isinstance(place, tuple) and len(place) == 5 and place[0] == "storage"):
            _refuse(self.path, "a reference that is no storage")
        _, kind, key, _, elements = place
        known = isinstance(kind, _Name) and isinstance(key, str)
        if not known or not _is_count(elements) or kind.name not in STORAGES:
            _refuse(self.path, f"storage {kind}")
        self.stack.append(Storage(key, STORAGES[kind.name], elements))

    def reduce(self, _: Any) -> None:
        given, called = self.pop(), self.pop()
        if not isinstance(called, _Name) or not isinstance(given, tuple):
            _refuse(self.path, "a call")
        if called.pair == _ORDERED and not given:
            self.stack.append({})
        elif called.pair == _REBUILD:
            self.stack.append(_tensor(given, self.path))
        elif given and isinstance(given[0], _FIRST_OF.get(called.pair, _Name)):
            self.stack.append(given[0])
        else:
            _refuse(self.path, f"a call of {called.module}.{called.name}")


def _allowed(module: str, name: str, path: Path) -> _Name:
    pair = (module, name)
    if pair in (_REBUILD, _PARAMETER, _ORDERED, _SIZE) or (module == "torch" and name in STORAGES):
        return _Name(module, name)
    _refuse(path, f"{module}.{name}")
    raise AssertionError  # _refuse raises


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _tensor(given: tuple[Any, ...], path: Path) -> TensorPlace:
    storage, offset, shape, stride = (*given, None, None, None, None)[:4]
    good = (
        isinstance(storage, Storage)
        and _is_count(offset)
        and all(isinstance(x, tuple) and all(map(_is_count, x)) for x in (shape, stride))
        and len(shape) == len(stride) <= 8
    )
    if not good:
        _refuse(path, "a tensor without storage, shape and stride")
    elements = 1
    for size in shape:
        elements *= size
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A stride of 0 would let one element claim to be 10^12.
    if elements > storage.elements or (elements and last >= storage.elements):
        refuse("a tensor claims more elements than its storage has", path, "pickle", shape)
    return TensorPlace(storage, offset, shape, stride)


_Act = Callable[[_Machine, Any], None]
_ACTS: dict[str, _Act] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": _Machine.mark,
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": lambda m, a: m.tuple_of(1),
    "TUPLE2": lambda m, a: m.tuple_of(2),
    "TUPLE3": lambda m, a: m.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.stack_named,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.reduce,
    **dict.fromkeys(
        (
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "BINFLOAT",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
            "BINBYTES",
            "SHORT_BINBYTES",
        ),
        _Machine.push,
    ),
}
