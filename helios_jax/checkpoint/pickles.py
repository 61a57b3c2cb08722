"""Reading pickles as data: a small machine that builds plain values and nothing else.

A pickle is a program for a stack machine that may name any Python object, call it, and set its
state. This reader runs the program without Python's own unpickler: what it names becomes a
:class:`Global`, an object of ours that only carries the name; calls go to a table of functions
that the caller gives; state is kept on :class:`PickledObject`. No object that is not ours is ever
called, changed or asked to change itself, and numbers, sizes and steps are limited.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MAX_BYTES = 64 * 2**20
MAX_STEPS = 2_000_000
"""A state dictionary of 1,000 tensors takes about 40,000 steps and 200 KB."""


class PickleError(Exception):
    """A pickle that cannot be read as data."""


class RefusedError(PickleError):
    """A pickle that asks for something that is not data; the message is its name."""


class Global(NamedTuple):
    """Stands for what a pickle calls ``module.name``."""

    module: str
    name: str


class PickledObject:
    """Stands for an object of a class that a pickle names.

    Attributes:
      kind: the class.
      state: what the pickle says its state is; None if it says nothing.
    """

    def __init__(self, kind: Global):
        self.kind = kind
        self.state: Any = None


Functions = Mapping[tuple[str, str], Callable[..., Any]]
"""By module and name: functions of ours, which make plain values of plain values."""


def read_pickle(
    content: bytes,
    functions: Functions,
    is_class: Callable[[Global], bool],
    find_storage: Callable[[Any], Any],
) -> Any:
    """The value that a pickle describes.

    Args:
      content: the pickle.
      functions: what calls of these names give; the only ones that are allowed.
      is_class: which other names are classes, whose objects become :class:`PickledObject`. Names
        that are neither end the reading.
      find_storage: what a persistent identifier stands for.

    Returns:
      None, numbers, strings, bytes, lists, tuples, dictionaries, sets, what ``functions`` and
      ``find_storage`` give, :class:`Global` and :class:`PickledObject`.

    Raises:
      RefusedError: if it names anything else.
      PickleError: if it is damaged, or too large.
    """
    if len(content) > MAX_BYTES:
        raise PickleError(f"it has {len(content)} bytes, and at most {MAX_BYTES} are read")
    machine = _Machine(functions, is_class, find_storage)
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if step >= MAX_STEPS:
                raise PickleError(f"it has more than {MAX_STEPS} steps")
            if operation.name == "STOP":
                return machine.pop()
            machine.run(operation.name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise PickleError(f"{type(error).__name__}: {error}") from error
    raise PickleError("it has no end")


_MARK = object()
_SCALARS = (str, int, float, bool, bytes, type(None))

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


class _Machine:
    """The stack and the memo, and what each operation does with them."""

    def __init__(
        self,
        functions: Functions,
        is_class: Callable[[Global], bool],
        find_storage: Callable[[Any], Any],
    ):
        self._functions = functions
        self._is_class = is_class
        self._find_storage = find_storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """The value on top of the stack."""
        value = self._stack.pop()
        if value is _MARK:
            raise PickleError("a mark where a value should be")
        return value

    def run(self, name: str, argument: Any) -> None:
        """One operation."""
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise PickleError("a number of more than 64 bits")
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in _PUTS:
            self._memo[argument] = self._top()
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        else:
            operation = _OPERATIONS.get(name)
            if operation is None:
                raise PickleError(f"operation {name} is not known")
            operation(self, argument)

    def _top(self) -> Any:
        value = self._stack[-1]
        if value is _MARK:
            raise PickleError("a mark where a value should be")
        return value

    def _items(self) -> list[Any]:
        """The values above the last mark, which is removed with them."""
        items = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _drop(self, _: Any) -> None:
        self._stack.pop()

    def _drop_items(self, _: Any) -> None:
        self._items()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top())

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._items()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._items())

    def _frozenset(self, _: Any) -> None:
        self._stack.append(frozenset(_keys(self._items())))

    def _append(self, _: Any) -> None:
        value = self.pop()
        _own(self._top(), list).append(value)

    def _extend(self, _: Any) -> None:
        values = self._items()
        _own(self._top(), list).extend(values)

    def _add_items(self, _: Any) -> None:
        values = self._items()
        _own(self._top(), set).update(_keys(values))

    def _dict(self, _: Any) -> None:
        self._stack.append(_dictionary(self._items()))

    def _set_item(self, _: Any) -> None:
        value = self.pop()
        key = self.pop()
        _own(self._top(), dict).update(_dictionary([key, value]))

    def _set_items(self, _: Any) -> None:
        values = self._items()
        _own(self._top(), dict).update(_dictionary(values))

    def _global(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        self._stack.append(self._named(module, name))

    def _stack_global(self, _: Any) -> None:
        name = _own(self.pop(), str)
        module = _own(self.pop(), str)
        self._stack.append(self._named(module, name))

    def _named(self, module: str, name: str) -> Global:
        found = Global(module, name)
        if found not in self._functions and not self._is_class(found):
            raise RefusedError(f"{module}.{name}"[:200])
        return found

    def _reduce(self, _: Any) -> None:
        arguments = _own(self.pop(), tuple)
        self._stack.append(self._call(self.pop(), arguments))

    def _instance(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        function = self._named(module, name)
        self._stack.append(self._call(function, tuple(self._items())))

    def _object(self, _: Any) -> None:
        function, *arguments = self._items()
        self._stack.append(self._call(function, tuple(arguments)))

    def _new_object_ex(self, _: Any) -> None:
        self.pop()  # named arguments
        self._reduce(_)

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        name = _own(function, Global)
        if name in self._functions:
            return self._functions[name](*arguments)
        return PickledObject(name)

    def _build(self, _: Any) -> None:
        state = self.pop()
        target = self._top()
        if type(target) is PickledObject:
            target.state = state
        elif type(target) is not dict:  # of an OrderedDict, the metadata of torch's modules
            raise PickleError(f"state for a value of type {type(target).__name__}")

    def _storage(self, argument: Any) -> None:
        self._stack.append(self._find_storage(argument))

    def _storage_on_stack(self, _: Any) -> None:
        self._stack.append(self._find_storage(self.pop()))


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_items,
    "DUP": _Machine._duplicate,
    "MEMOIZE": _Machine._memoize,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "FROZENSET": _Machine._frozenset,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._extend,
    "ADDITEMS": _Machine._add_items,
    "DICT": _Machine._dict,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_object_ex,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._storage,
    "BINPERSID": _Machine._storage_on_stack,
}


def _own(value: Any, kind: type) -> Any:
    """``value``, if it is exactly of a type."""
    if type(value) is not kind:
        raise PickleError(f"a value of type {type(value).__name__} where {kind.__name__} belongs")
    return value


def _keys(values: list[Any]) -> list[Any]:
    """Values that can be keys. Tuples cannot: one of tuples in tuples takes for ever to hash."""
    for value in values:
        if type(value) not in _SCALARS:
            raise PickleError(f"a value of type {type(value).__name__} as a key")
    return values


def _dictionary(values: list[Any]) -> dict[Any, Any]:
    """A dictionary of keys and values in turn."""
    if len(values) % 2:
        raise PickleError("a key without a value")
    return dict(zip(_keys(values[::2]), values[1::2]))
