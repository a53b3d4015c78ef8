"""Reads the pickle inside a torch file as data: which tensors it names, on which storages.

`pickletools.genops` splits the bytes into opcodes, and a machine of the few that torch writes
follows them with values of its own. No object of another module is made, no name looked up, no
function called: a `Global` is a pair of words. What torch's functions would build is known here
by their names alone (torch/_utils.py, torch/serialization.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backupd.capture.containers.bounded import MalformedError
from backupd.capture.containers.regions import MAX_DIMENSIONS, MAX_NAME_CHARACTERS, MAX_TENSORS

MAX_PICKLE_BYTES = 32 << 20
MAX_OPCODES = 1_500_000
"""Some 48,000 tensors at torch's 31 opcodes each; what a hostile pickle makes of as many takes
3 s and 130 MB."""

_MAX_PATH_CHARACTERS = 32 << 20
"""Paths in all: a few bytes of pickle can put the same long key before many tensors."""

_MAX_WORD_CHARACTERS = 64
"""Keys of storages and names of types; a longer one, compared often, would cost minutes."""

_MARK = object()

# What genops and the handlers raise for bytes that are no such pickle. A Warning is among them
# since genops warns of odd escapes, which `python -W error` turns into an exception.
_UNEXPECTED = (LookupError, ValueError, TypeError, OverflowError, struct.error, Warning)


class Global(NamedTuple):
    """A module and a name in it, as words."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """What a persistent id says of a storage: the member's key, its typed name such as
    `FloatStorage`, and how many elements (bytes for `UntypedStorage`) it holds."""

    key: str
    type_name: str
    elements: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor on a storage, offset and strides in elements. `dtype_name` is torch's, such as
    `float8_e4m3fn`, or empty where the storage's type tells."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype_name: str


@dataclass(slots=True)
class Thing:
    """An instance of any other class: the items set on it, and what it was made from and given
    as state. The latter are kept as they came, never copied: many things can share one."""

    parts: list[Any]
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorTable:
    """The views with their dotted names, in the pickle's order, every storage by its key, also of
    those that no view was understood on, and how many opcodes that took."""

    views: tuple[tuple[str, View], ...]
    storages: dict[str, Storage]
    opcodes: int


def read_tensor_table(data: bytes, most_opcodes: int = MAX_OPCODES) -> TensorTable:
    """Return what the pickle `data`, of at most `MAX_PICKLE_BYTES`, says of tensors.

    Raises MalformedError where it is no pickle, needs an opcode that torch does not write, has
    more than `most_opcodes`, or goes beyond the bounds of this module.
    """
    machine = _Machine()
    root, opcodes = machine.run(data, most_opcodes)
    return TensorTable(tuple(_named_views(root)), machine.storages, opcodes)


class _Machine:
    """The pickle machine's stack and memo (`pickletools` documents each opcode)."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, data: bytes, most_opcodes: int) -> tuple[Any, int]:
        """Return the value that is left at STOP, and how many opcodes led there."""
        # 6 ms, and only torch files need it
        from pickletools import genops

        handlers = _HANDLERS
        try:
            count = 0
            for count, (opcode, argument, _) in enumerate(genops(data), 1):
                if count > most_opcodes:
                    raise MalformedError("more opcodes than are followed")
                handlers[opcode.name](self, argument)
            return self.stack.pop(), count
        except _UNEXPECTED as error:
            raise MalformedError("a pickle that torch does not write") from error

    def push(self, argument: Any) -> None:
        if type(argument) is int and argument.bit_length() > 64:
            argument = None
        self.stack.append(argument)

    def since_mark(self) -> list[Any]:
        """Take what was pushed since the last mark, and the mark."""
        stack = self.stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise MalformedError("a pickle without its mark")
        values = stack[place + 1 :]
        del stack[place:]
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        values = tuple(self.stack[-count:])
        if len(values) != count:
            raise MalformedError("a pickle that takes what is not there")
        del self.stack[-count:]
        return values

    def set_items(self, values: Sequence[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Thing):
            target = target.items
        if type(target) is not dict or len(values) % 2:
            raise MalformedError("items set on what has none")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Others could be deep, and are no names; the value is kept under its number.
            target[key if type(key) in (str, int, bool) else len(target)] = value

    def append(self, values: Sequence[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Thing):
            target.items.update(enumerate(values, len(target.items)))
        elif type(target) is list:
            target.extend(values)
        else:
            raise MalformedError("items appended to what has none")

    def global_name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise MalformedError("a global whose name is none")
        self.stack.append(Global(module, name))

    def persistent(self, _: Any) -> None:
        identity = self.stack.pop()
        match identity:
            case ("storage", Global(_, type_name), str(key), _, int(elements)) if (
                max(len(type_name), len(key)) <= _MAX_WORD_CHARACTERS
            ):
                storage = Storage(key, type_name, elements)
                if self.storages.setdefault(key, storage) != storage:
                    raise MalformedError("one storage told in two ways")
                self.stack.append(storage)
            case _:
                raise MalformedError("a persistent id that is no storage")

    def reduce(self, _: Any) -> None:
        function, arguments = self.last(2)
        self.stack.append(_built(function, arguments))

    def new_object(self, _: Any) -> None:
        self.stack.append(Thing([*self.last(2)[1:]]))

    def new_object_with_keywords(self, _: Any) -> None:
        self.stack.append(Thing([*self.last(3)[1:]]))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Thing):
            target.parts.append(state)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])


_CONTAINERS = {
    Global("collections", "OrderedDict"),
    Global("collections", "defaultdict"),
    Global("builtins", "dict"),
    Global("__builtin__", "dict"),
}
_SEQUENCES = {
    Global("torch", "Size"),
    Global("builtins", "list"),
    Global("builtins", "set"),
    Global("__builtin__", "set"),
}
_VIEWS = {
    Global("torch._utils", "_rebuild_tensor"),
    Global("torch._utils", "_rebuild_tensor_v2"),
    Global("torch._utils", "_rebuild_qtensor"),
}
_VIEW_WITH_DTYPE = Global("torch._utils", "_rebuild_tensor_v3")
_PARAMETERS = {
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
}
_SUBCLASS = Global("torch._tensor", "_rebuild_from_type_v2")


def _built(function: Any, arguments: Any) -> Any:
    """Return what stands for `function(*arguments)`, which is not called."""
    if type(function) is Global and type(arguments) is tuple:
        if function == _SUBCLASS and len(arguments) == 4:
            function, arguments = arguments[0], arguments[2]
            if type(function) is not Global or type(arguments) is not tuple:
                return Thing([arguments])
        if function in _VIEWS and len(arguments) >= 4:
            return _view(arguments, "")
        if function == _VIEW_WITH_DTYPE and len(arguments) >= 7:
            dtype = arguments[6]
            if type(dtype) is Global and len(dtype.name) <= _MAX_WORD_CHARACTERS:
                return _view(arguments, dtype.name)
        if function in _PARAMETERS and arguments:
            return arguments[0]
        if function in _CONTAINERS and not (arguments and type(arguments[0]) is not Global):
            return {}
        if function in _SEQUENCES and len(arguments) == 1 and type(arguments[0]) in (list, tuple):
            return arguments[0]
    return Thing([arguments])


def _view(arguments: tuple[Any, ...], dtype_name: str) -> View | Thing:
    match arguments[:4]:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides)) if (
            offset >= 0
            and len(shape) == len(strides) <= MAX_DIMENSIONS
            and all(type(number) is int and number >= 0 for number in shape + strides)
        ):
            return View(storage, offset, shape, strides, dtype_name)
    return Thing([arguments])


_Handler = Callable[[_Machine, Any], None]


def _handlers() -> dict[str, _Handler]:
    def constant(value: Any) -> _Handler:
        return lambda machine, _: machine.stack.append(value)

    def fresh(make: Callable[[], Any]) -> _Handler:
        return lambda machine, _: machine.stack.append(make())

    def marked(make: Callable[[list[Any]], Any]) -> _Handler:
        return lambda machine, _: machine.stack.append(make(machine.since_mark()))

    def tuple_of(count: int) -> _Handler:
        return lambda machine, _: machine.stack.append(machine.last(count))

    def nothing(machine: _Machine, _: Any) -> None:
        """PROTO, FRAME and STOP change nothing."""

    def pop(machine: _Machine, _: Any) -> None:
        machine.stack.pop()

    def dictionary(machine: _Machine, _: Any) -> None:
        values = machine.since_mark()
        machine.stack.append({})
        machine.set_items(values)

    handlers: dict[str, _Handler] = {
        "PROTO": nothing,
        "FRAME": nothing,
        "STOP": nothing,
        "NONE": constant(None),
        "NEWTRUE": constant(True),
        "NEWFALSE": constant(False),
        "MARK": constant(_MARK),
        "EMPTY_TUPLE": constant(()),
        "EMPTY_LIST": fresh(list),
        "EMPTY_SET": fresh(list),
        "EMPTY_DICT": fresh(dict),
        "LIST": marked(list),
        "FROZENSET": marked(list),
        "TUPLE": marked(tuple),
        "TUPLE1": tuple_of(1),
        "TUPLE2": tuple_of(2),
        "TUPLE3": tuple_of(3),
        "DICT": dictionary,
        "APPEND": lambda machine, _: machine.append(machine.last(1)),
        "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
        "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
        "SETITEM": lambda machine, _: machine.set_items(machine.last(2)),
        "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
        "GLOBAL": lambda machine, words: machine.global_name(*words.split(" ", 1)),
        "STACK_GLOBAL": lambda machine, _: machine.global_name(*machine.last(2)),
        "BINPERSID": _Machine.persistent,
        "REDUCE": _Machine.reduce,
        "NEWOBJ": _Machine.new_object,
        "NEWOBJ_EX": _Machine.new_object_with_keywords,
        "BUILD": _Machine.build,
        "MEMOIZE": _Machine.memoize,
        "POP": pop,
    }
    handlers |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put)
    handlers |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get)
    pushed = (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
    return handlers | dict.fromkeys(pushed, _Machine.push)


_HANDLERS = _handlers()


def _named_views(root: Any) -> Iterator[tuple[str, View]]:
    """Yield every view under `root` with its path, each container once whatever refers to it."""
    seen: set[int] = set()
    walks: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter([(None, root)]))]
    found = characters = 0
    while walks:
        above, items = walks[-1]
        key, value = next(items, (None, walks))
        if value is walks:
            walks.pop()
            continue
        if not isinstance(value, _WALKED) or isinstance(value, Global):
            continue
        if not value or id(value) in seen:
            continue
        if key is None:
            path = above
        elif len(above) + (len(key) if type(key) is str else 0) < MAX_NAME_CHARACTERS:
            path = f"{above}.{key}" if above else str(key)
        else:
            raise MalformedError("a name longer than is kept")
        characters += len(path)
        found += isinstance(value, View)
        if found > MAX_TENSORS or characters > _MAX_PATH_CHARACTERS:
            raise MalformedError("more tensors than are kept")
        if isinstance(value, View):
            yield path, value
        else:
            seen.add(id(value))
            walks.append((path, _items(value)))


_WALKED = (View, Thing, dict, list, tuple)


def _items(value: Thing | dict[Any, Any] | Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values; what a thing was made from takes no step in the path."""
    if isinstance(value, Thing):
        for part in value.parts:
            yield None, part
        yield from value.items.items()
    else:
        yield from value.items() if isinstance(value, dict) else enumerate(value)
