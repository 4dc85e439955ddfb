"""Numbers written in a base: `101_2`, `AB_{16}`, `101 in base 2`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from infifusion.evals.same_answer.amounts import Amount
from infifusion.evals.same_answer.reader import number
from infifusion.evals.same_answer.units import Unit

NAMES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
NAMED = {name: at for at, name in enumerate([*NAMES.split(), "sixteen"], 2)}
NAMED |= {"binary": 2, "octal": 8, "decimal": 10, "hex": 16, "hexadecimal": 16}
DIGITS = (
    r"(?P<sign>-?)\s*\(?\s*"
    r"(?P<digits>[0-9][0-9A-Fa-f]*(?:\.[0-9A-Fa-f]+)?|[A-Fa-f][0-9A-Fa-f]+)\s*\)?"
)
BASE = r"(?P<base>\d{1,2}|[a-z]+)"
PATTERNS = [
    re.compile(rf"{DIGITS}\s*_\s*\{{?\s*{BASE}\s*\}}?"),
    re.compile(rf"{DIGITS},?\s+(?:in\s+)?base[ -]{BASE}"),
]


@dataclass(frozen=True)
class Based:
    """A number in a base that is not ten. The base is part of the answer."""

    negative: bool
    digits: str
    base: int

    def same(self, other: object) -> bool:
        """The same digits in the same base."""
        return isinstance(other, Based) and self == other


def readings(text: str) -> Iterator[Based | Amount]:
    """The number in a base that a cleaned text is; in base ten it is a plain one."""
    for pattern in PATTERNS:
        found = pattern.fullmatch(text)
        if not found:
            continue
        base = int(found["base"]) if found["base"].isdigit() else NAMED.get(found["base"], 0)
        whole, point, part = found["digits"].upper().partition(".")
        digits = (whole.lstrip("0") or "0") + (point + part).rstrip("0").rstrip(".")
        if not 2 <= base <= 16 or any(int(d, 16) >= base for d in whole + part):
            continue
        if base == 10:
            value = number(found["digits"])
            yield Amount(-value if found["sign"] else value, Unit())
        else:
            yield Based(bool(found["sign"]) and digits != "0", digits, base)
