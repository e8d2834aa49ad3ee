"""Reading pickles as data: plain containers and values are built, nothing that a pickle names is looked up or called.

The opcodes are those that Python's `pickletools` documents. Python's own `Unpickler` works on live objects, so that a
pickle can set attributes on whatever it is handed; here every object but a list, a tuple or a dict is `INERT`.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

MAX_BYTES = 16 << 20
"""Longest pickle that is read; a released checkpoint's has 0.1 MB."""

MAX_STEPS = 2_000_000
"""Most opcodes and copied items; a released checkpoint takes 0.03 million. Bounds the time and the memory."""


class Inert:
    """Stands for every object that is no plain value; the only instance is `INERT`."""


INERT = Inert()


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names, by name only."""

    module: str
    name: str


Builders = Mapping[tuple[str, str], Callable[..., Any]]
"""(module, name) of the functions that are understood -> what is called with their arguments in place of them."""

_MAPPINGS = (("collections", "OrderedDict"), ("builtins", "dict"), ("__builtin__", "dict"))

_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(data: bytes, persistent: Callable[[Any], Any], builders: Builders) -> tuple[Any, int]:
    """The value of the pickle at the start of `data`, and the pickle's length in bytes.

    Entries of dicts whose key is no string are left out: no state dict has them.

    Args:
        data: at least one pickle.
        persistent: gives the value of a persistent id.
        builders: what builds the values of known functions; they must check their arguments.

    Raises:
        UnpicklingError, ValueError, IndexError, KeyError, TypeError: the pickle is damaged or too long.
    """
    stream = io.BytesIO(data[:MAX_BYTES])
    machine = _Machine(persistent, builders)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            return machine.pop(), stream.tell()
        machine.count(1)
        machine.step(opcode.name, argument)
    raise UnpicklingError("a pickle without an end")


class _Machine:
    def __init__(self, persistent: Callable[[Any], Any], builders: Builders) -> None:
        self.persistent = persistent
        self.builders = builders
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise UnpicklingError("a pickle of too many steps")

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise UnpicklingError("a pickle that takes more values than it gave")
        start = len(self.stack) - count
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_to_mark(self) -> list[Any]:
        return self.pop_many(max(len(self.stack) - self.marks.pop(), 0))

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop_many(_TUPLES[name])))
        else:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise UnpicklingError(f"opcode {name}")
            handler(self, argument)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def discard(self, _: Any) -> None:
        # Pickle's POP takes the mark where nothing lies above it.
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def discard_to_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: Any) -> None:
        index = len(self.memo) if index is None else index
        if not 0 <= index <= MAX_STEPS:
            raise UnpicklingError(f"memo index {index}")
        self.memo[index] = self.stack[-1]

    def get(self, index: Any) -> None:
        if index not in self.memo:
            raise UnpicklingError("a memo entry that was never put")
        self.stack.append(self.memo[index])

    def empty_list(self, _: Any) -> None:
        self.stack.append([])

    def empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def empty_set(self, _: Any) -> None:
        self.stack.append(INERT)

    def make_list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def make_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def make_dict(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_pairs(items)

    def make_set(self, _: Any) -> None:
        self.pop_to_mark()
        self.stack.append(INERT)

    def append(self, _: Any) -> None:
        self.extend_top(self.pop_many(1))

    def append_many(self, _: Any) -> None:
        self.extend_top(self.pop_to_mark())

    def extend_top(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def set_item(self, _: Any) -> None:
        self.set_pairs(self.pop_many(2))

    def set_items(self, _: Any) -> None:
        self.set_pairs(self.pop_to_mark())

    def set_pairs(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            keys, values = items[::2], items[1::2]
            target.update((k, v) for k, v in zip(keys, values, strict=True) if isinstance(k, str))

    def push_global(self, argument: Any) -> None:
        if argument is None:
            module, name = self.pop_many(2)
        else:
            module, _, name = argument.partition(" ")
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnpicklingError("a class whose name is no string")
        self.stack.append(Global(module, name))

    def call(self, _: Any) -> None:
        function, arguments = self.pop_many(2)
        self.push_result(function, arguments)

    def call_with_keywords(self, _: Any) -> None:
        self.pop_many(3)
        self.stack.append(INERT)

    def call_marked(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.push_result(items[0], tuple(items[1:]))

    def call_named(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self.push_result(Global(module, name), tuple(self.pop_to_mark()))

    def push_result(self, function: Any, arguments: Any) -> None:
        value: Any = INERT
        if isinstance(function, Global) and isinstance(arguments, tuple):
            named = (function.module, function.name)
            if named in _MAPPINGS:
                value = self.mapping(*arguments[:1])
            elif named in self.builders:
                value = self.builders[named](*arguments)
        self.stack.append(value)

    def mapping(self, pairs: Any = ()) -> dict[str, Any]:
        """A dict of (key, value) pairs, as Python 2 pickled its ordered dicts."""
        if not isinstance(pairs, (list, tuple)):
            return {}
        self.count(len(pairs))
        whole = (p for p in pairs if isinstance(p, (list, tuple)) and len(p) == 2)
        return {key: value for key, value in whole if isinstance(key, str)}

    def set_state(self, _: Any) -> None:
        self.pop()
        if not self.stack:
            raise UnpicklingError("a state without an object")

    def push_persistent(self, argument: Any) -> None:
        self.stack.append(self.persistent(self.pop() if argument is None else argument))

    def ignore(self, _: Any) -> None:
        pass


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.ignore,
    "FRAME": _Machine.ignore,
    "MARK": _Machine.mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_SET": _Machine.empty_set,
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "DICT": _Machine.make_dict,
    "FROZENSET": _Machine.make_set,
    "ADDITEMS": _Machine.discard_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_many,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.push_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "OBJ": _Machine.call_marked,
    "INST": _Machine.call_named,
    "BUILD": _Machine.set_state,
    "PERSID": _Machine.push_persistent,
    "BINPERSID": _Machine.push_persistent,
}
