"""Equations, and answers with a name before them: `x+2y=3`, `x = 3`, `f(x) = 2x+1`, `2+3 = 5`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr

from infifusion.evals.same_answer import values
from infifusion.evals.same_answer.amounts import exact
from infifusion.evals.same_answer.splitting import is_one, split

NAME = re.compile(
    r"\\?[A-Za-z]+'*(?:_\{?\w+\}?)?'*"  # x, \theta, x_1, Area
    r"|[A-Za-z](?:\^\{-1\}|\^-1|')?\s*\([^()]*\)"  # f(x), f^{-1}(x), P(A)
    r"|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)"  # (x, y)
    r"|\\(?:overline|vec|hat|mathbf)\s*\{\w+\}"
    r"|m?\s*\\(?:angle|triangle)\s*[A-Z]{1,3}"
    r"|(?:[A-Za-z]{2,}\s+){0,5}[A-Za-z]{2,}"  # the area
)
FUNCTION = re.compile(r"[A-Za-z](?:\^\{-1\}|\^-1|')?\s*\([^()]*\)")


@dataclass(frozen=True)
class Named:
    """`name = rest`; name: "" where the left side is itself a number, as in 2 + 3 = 5."""

    name: str
    rest: str

    def fits(self, other: Named) -> bool:
        """Whether both name one thing: y may stand for f(x), and what has no name for all."""
        if not self.name or not other.name or self.name == other.name:
            return True
        names = {self.name, other.name}
        return "y" in names and bool(FUNCTION.fullmatch(next(iter(names - {"y"}))))


@dataclass(frozen=True)
class Equation:
    """expression = 0, with at least one variable."""

    expression: Expr

    def same(self, other: object) -> bool:
        """Equal up to a factor."""
        return isinstance(other, Equation) and values.proportional(
            self.expression, other.expression
        )


def readings(text: str) -> Iterator[Equation]:
    """The equation that a cleaned text is."""
    parts = split(text, "=")
    if len(parts) != 2 or not is_one(text):
        return
    left, right = exact(parts[0]), exact(parts[1])
    if left is not None and right is not None and (left - right).free_symbols:
        yield Equation(left - right)


def named(text: str) -> Named | None:
    """The answer behind a name, or at the end of a computation; None where there is none."""
    parts = split(text, "=")
    if len(parts) < 2 or not all(parts) or not is_one(text):
        return None
    first, last = parts[0], parts[-1]
    if NAME.fullmatch(first):
        return Named(re.sub(r"\s+", "", first), last)
    value = exact(first)
    if value is not None and not value.free_symbols:
        return Named("", last)
    return None


def approximations(text: str) -> list[str]:
    """The exact value and its approximation in `1/3 \\approx 0.333`; the text alone without."""
    parts = split(text, ["\\approx"])
    return [text] if len(parts) < 2 or not all(parts) else parts
