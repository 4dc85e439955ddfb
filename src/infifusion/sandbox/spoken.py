"""What the two sides of a judged program can say to each other: plain types, errors, operations.

Imports nothing from the package: it runs inside the sandbox, with peer.py.
"""

from __future__ import annotations

import builtins
import operator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COPIED = (list, tuple, set, frozenset)
CHANGEABLE = (list, dict, set, bytearray)
BASES = (int, float, str, bytes, *COPIED, dict)
TYPES: dict[str, Any] = {
    one.__name__: one for one in (*BASES, bool, complex, bytearray, object, type(None))
}
BUILT_IN: dict[str, type[BaseException]] = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
# Values of the standard library and NumPy: how to take one apart. Its class puts it together again.
MADE_OF: dict[tuple[str, str], Any] = {
    ("collections", "deque"): lambda value: (list(value), value.maxlen),
    ("fractions", "Fraction"): lambda value: (value.numerator, value.denominator),
    ("decimal", "Decimal"): lambda value: (str(value),),
    ("datetime", "date"): lambda value: (value.year, value.month, value.day),
    ("datetime", "timedelta"): lambda value: (value.days, value.seconds, value.microseconds),
    ("datetime", "datetime"): lambda value: (*value.timetuple()[:6], value.microsecond),
    ("builtins", "range"): lambda value: (value.start, value.stop, value.step),
    ("builtins", "slice"): lambda value: (value.start, value.stop, value.step),
    ("builtins", "complex"): lambda value: (value.real, value.imag),
}
MADE_OF[("numpy", "ndarray")] = lambda value: (value.tolist(), str(value.dtype))
SCALARS = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool bool_ str_ float16 float32"
for _scalar in f"{SCALARS} float64 complex64 complex128".split():
    MADE_OF[("numpy", _scalar)] = lambda value: (value.item(),)
MADE_BY = {("numpy", "ndarray"): "array"}
"""What puts a value together again where its class does not."""
BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift")
BINARY += ("and", "or", "xor")
COMPARED = ["lt", "le", "gt", "ge"]
UNARY = ["neg", "pos", "abs", "invert"]
ASKED: dict[str, Any] = {
    **{name: getattr(operator, f"__{name}__") for name in (*BINARY, *COMPARED, *UNARY, "eq")},
    **{f"r{name}": (lambda one, other, do=name: ASKED[do](other, one)) for name in BINARY},
    **{"getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem},
    **{"contains": operator.contains, "enter": lambda it: it.__enter__()},
    **{"len": len, "iter": iter, "next": next, "str": str, "repr": repr, "hash": hash},
    **{"bool": bool, "int": int, "float": float, "index": operator.index, "reversed": reversed},
    **{"exit": lambda it, *error: it.__exit__(None, None, None), "isinstance": isinstance},
    **{"getattr": getattr, "setattr": setattr, "delattr": delattr},
    "call": lambda it, *args, **kwargs: it(*args, **kwargs),
}
