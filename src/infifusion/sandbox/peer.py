"""A test and the program it judges, in two processes: they call each other over two pipes.

What comes from the other side is JSON and nothing else. Plain values (numbers, text, lists, dicts,
sets, ...) are copied and become exactly plain again, so that no `__eq__` of the program decides a
comparison with one. Everything else stays where it is: the other side holds an `Elsewhere`, whose
attributes, calls and operators are asked for. The program may only call what the test passes
to it; it cannot look inside.

    question   ["do", operation, [arguments], {keyword arguments}]
    answer     ["value", value, [arguments that may have changed]]   or   ["raise", exception]
    value      null, true, 1, 1.5, "text", or [kind, ...]

Needs nothing of the package: it runs inside the sandbox, beside spoken.py.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

LARGEST = 1 << 28  # bytes of one message; a process has 1 GiB
LARGE_INT = 1 << 62  # beyond it, numbers go in hexadecimal: decimal ones are limited and slow
NONSENSE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
# Side by side inside the sandbox, where there is no package.
try:
    import spoken  # pyright: ignore[reportMissingImports]
except ImportError:
    from infifusion.sandbox import spoken
ASKED, BASES, BUILT_IN, CHANGEABLE = spoken.ASKED, spoken.BASES, spoken.BUILT_IN, spoken.CHANGEABLE
COPIED, MADE_OF, TYPES = spoken.COPIED, spoken.MADE_OF, spoken.TYPES


class Gone(BaseException):
    """The other side has left, or does not speak the language. No test can catch it by accident."""


class Peer:
    """One end. `allowed`: the operations that the other side may ask for."""

    def __init__(self, reading: int, writing: int, allowed: frozenset[str]) -> None:
        self.allowed = allowed
        self.gone = False
        self._reading, self._writing = reading, writing
        self._read, self._write = os.read, os.write
        self._mine: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._errors: dict[int, type] = {}

    def send(self, message: Any) -> None:
        """One message: 8 bytes of length, then JSON."""
        text = json.dumps(message).encode()
        left = memoryview(len(text).to_bytes(8, "big") + text)
        try:
            while left:
                left = left[self._write(self._writing, left) :]
        except OSError:
            self._leave()

    def receive(self) -> list:
        """One message; Gone where there is none, or no whole one."""
        length = int.from_bytes(self._exactly(8), "big")
        if length > LARGEST:
            self._leave()
        try:
            message = json.loads(self._exactly(length))
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, list) or not message:
            self._leave()
        return message

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """What the other side answers; raises what it raised. It may ask back meanwhile."""
        named = {key: self.pack(value) for key, value in kwargs.items()}
        self.send(["do", operation, [self.pack(value) for value in args], named])
        while True:
            kind, *rest = self.receive()
            if kind == "do":
                self._answer(rest)
                continue
            try:
                if kind == "raise":
                    error, value, changed = self._error(*rest), None, []
                else:
                    error, value = None, self.unpack(rest[0])
                    changed = [self.unpack(one) for one in rest[1]]
            except NONSENSE:
                self._leave()
            if error is not None:
                raise error
            for old, new in zip(args, changed, strict=False):
                if type(old) is type(new) and type(old) in CHANGEABLE and old != new:
                    _become(old, new)
            return value

    def serve(self) -> None:
        """Answer until the other side leaves."""
        while True:
            kind, *rest = self.receive()
            if kind != "do":
                self._leave()
            self._answer(rest)

    def pack(self, value: Any) -> Any:
        """The value as JSON."""
        kind: Any = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if kind is int:
            return value if -LARGE_INT < value < LARGE_INT else ["int", hex(value)]
        if kind in (bytes, bytearray):
            return [kind.__name__, value.hex()]
        if kind in COPIED:
            return [kind.__name__, [self.pack(one) for one in value]]
        if kind is dict:
            return ["dict", [[self.pack(key), self.pack(one)] for key, one in value.items()]]
        made = MADE_OF.get((kind.__module__, kind.__qualname__))
        if made is not None and getattr(value, "tzinfo", None) is None:
            return ["made", kind.__module__, kind.__qualname__, self.pack(made(value))]
        if kind is Elsewhere and value._peer is self:
            return ["yours", value._number]
        if isinstance(value, type):
            if TYPES.get(value.__name__) is value:
                return ["type", value.__name__]
            if issubclass(value, BaseException):
                return self._pack_error_type(value)
        base: Any = next((one for one in BASES if isinstance(value, one)), None)
        if base is not None:
            return ["like", self.pack(base(value)), self._keep(value)]
        return ["mine", self._keep(value)]

    def unpack(self, value: Any) -> Any:
        """The value that `pack` of the other side wrote."""
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise TypeError("an object where a value was expected")
            return value
        kind, *rest = value
        if kind == "int":
            return int(rest[0], 16)
        if kind in ("bytes", "bytearray"):
            return TYPES[kind].fromhex(rest[0])
        if kind == "dict":
            return {self.unpack(key): self.unpack(one) for key, one in rest[0]}
        if kind == "made":
            module, name, parts = rest
            if (module, name) not in MADE_OF:
                raise LookupError(name)
            maker = getattr(__import__(module), str(spoken.MADE_BY.get((module, name), name)))
            return maker(*self.unpack(parts))
        if kind == "yours":
            return self._mine[rest[0]]
        if kind == "mine":
            return Elsewhere(self, int(rest[0]))
        if kind == "like":
            return _like(self.unpack(rest[0]), Elsewhere(self, int(rest[1])))
        if kind == "type":
            return TYPES[rest[0]]
        if kind == "error":
            return self._error_type(*rest)
        return {one.__name__: one for one in COPIED}[kind](self.unpack(one) for one in rest[0])

    def _answer(self, question: list) -> None:
        try:
            operation, packed, named = question
            args = [self.unpack(value) for value in packed]
            kwargs = {key: self.unpack(value) for key, value in named.items()}
        except NONSENSE:
            self._leave()
        if operation not in self.allowed:
            self._leave()
        try:
            value = ASKED[operation](*args, **kwargs)
            answer = ["value", self.pack(value), [self.pack(_if_changeable(one)) for one in args]]
        except Gone:
            raise
        except BaseException as error:
            answer = ["raise", self._pack_error_type(type(error)), *_words(self, error)]
        self.send(answer)

    def _pack_error_type(self, kind: type) -> list:
        base = next(one for one in kind.__mro__ if BUILT_IN.get(one.__name__) is one)
        number = -1 if base is kind else self._keep(kind)
        return ["error", number, str(kind.__name__), base.__name__]

    def _error_type(self, number: int, name: str, base: str) -> type:
        if number < 0:
            return BUILT_IN[base]
        if number not in self._errors:
            self._errors[number] = type(name, (BUILT_IN[base],), {})
        return self._errors[number]

    def _error(self, packed: list, args: Any, text: str) -> BaseException:
        kind, values = self._error_type(*packed[1:]), self.unpack(args)
        try:
            return kind(*values)
        except TypeError:  # such as UnicodeDecodeError, which wants five arguments
            return RuntimeError(f"{kind.__name__}: {text}")

    def _keep(self, value: Any) -> int:
        number = self._numbers.setdefault(id(value), len(self._mine))
        if number == len(self._mine):
            self._mine.append(value)  # it lives on, so its id stays its own
        return number

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._read(self._reading, min(count - len(data), 1 << 16))
            except OSError:
                piece = b""
            if not piece:
                self._leave()
            data += piece
        return bytes(data)

    def _leave(self) -> NoReturn:
        self.gone = True
        raise Gone


class Elsewhere:
    """A thing of the other process. It never equals a plain value."""

    __slots__ = ("_number", "_peer")
    _number: int
    _peer: Peer

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.ask("delattr", self, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Elsewhere):
            return False
        return other._number == self._number or self._peer.ask("eq", self, other)

    def __instancecheck__(self, other: Any) -> bool:
        return isinstance(other, Elsewhere) and bool(self._peer.ask("isinstance", other, self))


def _asking(operation: str):
    def method(self, *args, **kwargs):
        return self._peer.ask(operation, self, *args, **kwargs)

    return method


for _name in (*ASKED.keys() - {"getattr", "setattr", "delattr", "eq", "isinstance"},):
    setattr(Elsewhere, f"__{_name}__", _asking(_name))


def _like(plain: Any, elsewhere: Elsewhere) -> Any:
    """A plain value with the further attributes of a subclass's instance elsewhere."""

    def __getattr__(self, name: str) -> Any:
        return getattr(elsewhere, name)

    kind: Any = type("Like", (type(plain),), {"__getattr__": __getattr__})
    return kind(plain)


def _become(old: Any, new: Any) -> None:
    """Give a mutable value the contents of another of its type."""
    if isinstance(old, dict | set):
        old.clear()
        old.update(new)
    else:
        old[:] = new


def _if_changeable(value: Any) -> Any:
    return value if type(value) in CHANGEABLE else None


def _words(peer: Peer, error: BaseException) -> tuple[Any, str]:
    try:
        return peer.pack(error.args), str(error)[:300]
    except BaseException:
        return peer.pack(("an exception that cannot be printed",)), "it cannot be printed"
