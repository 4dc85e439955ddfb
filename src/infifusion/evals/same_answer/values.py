"""Whether two expressions are one and the same: exactly, or at points in many digits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import mpmath
import sympy
from mpmath.libmp import NoConvergence
from sympy import Expr, Rational, Symbol
from sympy.core.numbers import Number

from infifusion.evals.same_answer import large

DIGITS = 50  # beyond those that the integers of the two have
MOST_DIGITS = 70_000
MOST_BITS = 1_000  # of a number that is written into the text of a function
MARGIN = 15  # digits that rounding may take
# Values of the variables, which no identity meets by chance: some positive, some of either sign.
POINTS = (
    (101, 137, 173, 211, 251, 293, 337, 383, 431, 479),
    (613, 47, 359, 89, 727, 149, 557, 31, 271, 443),
    (59, 811, 127, 463, 37, 673, 97, 521, 179, 739),
    (-103, 139, -167, 223, -241, 283, -331, 397, -421, 487),
    (83, -709, -53, -401, 661, -157, 569, -67, -313, 457),
    (-71, -643, -191, -433, -277, -751, -131, -509, -229, -367),
)
UNIT = 97  # what they are divided by
Numeric = Any  # a real or a complex number of mpmath, which has no types


def equal(left: Expr, right: Expr) -> bool:
    """Whether they have one value wherever both are defined.

    Numbers are compared exactly. Other expressions must agree at POINTS in DIGITS digits and twice
    as many more as their integers have, relative to their size, so that 2^-99 is not 2^-98 and
    sqrt(10^200 + 1) not 10^100. Where a root or a logarithm of a real expression is not real, it is
    not defined: sqrt(x) sqrt(y) is sqrt(x y). NaN and complex infinity equal nothing.
    """
    if any(value.has(sympy.nan, sympy.zoo) for value in (left, right)):
        return False
    if left == right:
        return True
    if isinstance(left, Rational) and isinstance(right, Rational):
        return False
    if large.is_large(left) or large.is_large(right):
        return large.with_primes(left) == large.with_primes(right)
    if left.has(sympy.oo, -sympy.oo) or right.has(sympy.oo, -sympy.oo):
        return False
    pairs = _at_points([left, right])
    if left.free_symbols or right.free_symbols:
        return len(pairs) >= 2 and all(_close(a, b, digits) for a, b, digits in pairs)
    if not pairs:
        return False
    [(one, other, digits)] = pairs[:1]
    if left == 0 or right == 0:
        small = max(abs(one), abs(other)) < mpmath.mpf(10) ** (MARGIN - digits)
        return bool(small) and (left - right).equals(0) is True
    return _close(one, other, digits)


def proportional(left: Expr, right: Expr, *, positive: bool = False) -> bool:
    """Whether they differ by a constant factor alone that is not zero; positive: nor negative."""
    if large.is_large(left) or large.is_large(right):
        return False
    pairs = _at_points([left, right])
    if len(pairs) < 3:
        return False
    if any(abs(a) < 1e-20 or abs(b) < 1e-20 for a, b, _ in pairs):
        return False
    first, second, digits = pairs[0]
    with mpmath.workdps(digits):
        factor = first / second
        if positive and (mpmath.im(factor) != 0 or mpmath.re(factor) < 0):
            return False
        return all(_close(a, factor * b, digits - MARGIN) for a, b, _ in pairs)


def compare(left: Expr, right: Expr) -> int | None:
    """-1, 0 or 1 for two real constants; None where they cannot be ordered."""
    if left == right:
        return 0
    if {left, right} & {sympy.oo, -sympy.oo}:
        return 1 if sympy.oo in (left,) or right == -sympy.oo else -1
    if left.free_symbols or right.free_symbols:
        return None
    pairs = _at_points([left, right])
    if not pairs or mpmath.im(pairs[0][0]) != 0 or mpmath.im(pairs[0][1]) != 0:
        return None
    one, other, digits = pairs[0]
    if _close(one, other, digits):
        return 0
    return 1 if one > other else -1


def _close(one: Numeric, other: Numeric, digits: int) -> bool:
    with mpmath.workdps(digits):
        size = max(abs(one), abs(other))
        return bool(abs(one - other) <= size * mpmath.mpf(10) ** (MARGIN - digits))


def _at_points(values: Sequence[Expr]) -> list[tuple[Numeric, Numeric, int]]:
    """Both values at each point where both are defined, and in how many digits."""
    symbols = sorted(set().union(*(value.free_symbols for value in values)), key=str)
    if len(symbols) > len(POINTS[0]):
        return []
    digits = DIGITS + 2 * sum(map(_size, values))
    if digits > MOST_DIGITS:
        return []
    real = not any(value.has(sympy.I) for value in values)
    inside = [arg for value in values for arg in _must_be_positive(value)] if real else []
    big = sorted({n for value in values for n in value.atoms(Rational) if _bits(n) > MOST_BITS})
    names = {n: sympy.Dummy(f"n{at}") for at, n in enumerate(big)}
    given = [*symbols, *names.values()]
    try:
        functions = [
            sympy.lambdify(given, value.xreplace(names), "mpmath") for value in [*values, *inside]
        ]
    except NotImplementedError:  # what has no value, such as sin(oo)
        return []
    found = []
    for numbers in POINTS if symbols else POINTS[:1]:
        with mpmath.workdps(digits), contextlib.suppress(*_UNDEFINED):
            point = [mpmath.mpf(n) / UNIT for n in numbers[: len(symbols)]]
            point += [mpmath.mpf(int(n.p)) / int(n.q) for n in big]
            results = [mpmath.mpmathify(function(*point)) for function in functions]
            defined = all(mpmath.im(r) == 0 and mpmath.re(r) >= 0 for r in results[2:])
            if (defined or not symbols) and all(map(mpmath.isfinite, results[:2])):
                found.append((results[0], results[1], digits))
    return found


_UNDEFINED = (ZeroDivisionError, ValueError, OverflowError, TypeError, NameError)
_UNDEFINED += (NoConvergence,)


def _size(value: Expr) -> int:
    """Digits of the integers in an expression."""
    numbers = [n for n in value.atoms(Number) if isinstance(n, Rational)]
    return sum(map(_bits, numbers)) * 3 // 10


def _bits(number: Rational) -> int:
    return max(abs(int(number.p)), int(number.q)).bit_length()


def _must_be_positive(value: Expr) -> list[Expr]:
    """What stands under roots and in logarithms."""
    roots = [p.base for p in value.atoms(sympy.Pow) if not _whole(p.exp)]
    logs = [log.args[0] for log in value.atoms(sympy.log)]
    return [arg for arg in [*roots, *logs] if arg.free_symbols]


def _whole(exponent: Expr) -> bool:
    return bool(exponent.is_integer) or (
        isinstance(exponent, Rational) and exponent.q % 2 == 1 and not isinstance(exponent, Symbol)
    )
