"""Powers and factorials that are too large to be written out stay symbols that can be compared.

2^{10^{12}} becomes P2^(10^12), where P2 is a symbol that stands for 2. Products of such powers are
then equal where their exponents are, and nothing is ever multiplied out.
"""

from __future__ import annotations

import math
from typing import cast

import sympy
from sympy import Expr, Integer, Rational, Symbol

MOST_BITS = 100_000  # of a number that is written out: 30,000 digits
LARGEST_FACTORIAL = 5_000
LARGEST_EXPONENT = 1_000  # of anything that is no number
TRIAL = 10_000  # factors are sought up to here
MARK = "#"  # stands in the names of symbols for numbers, and in no letter that an answer can have


class TooLarge(ValueError):
    """Not to be computed."""


def power(base: Expr, exponent: Expr) -> Expr:
    """base ^ exponent; symbols where it has more than MOST_BITS bits. TooLarge for what cannot be
    compared either."""
    if isinstance(base, Rational) and is_large(exponent):
        return _by_primes(base, exponent)
    if is_large(base) or is_large(exponent):
        return base**exponent if isinstance(exponent, Rational | Symbol) else _refuse()
    if not isinstance(exponent, Rational):
        if not exponent.free_symbols and abs(exponent.evalf(15)) > LARGEST_EXPONENT:
            return _refuse()
        return base**exponent
    size = abs(exponent)
    if isinstance(base, Rational):
        if base in (0, 1, -1) or size * _bits(base) <= MOST_BITS:
            return base**exponent
        return _by_primes(base, exponent)
    if size > LARGEST_EXPONENT and not base.is_Symbol:
        return _refuse()
    return base**exponent


def factorial(n: Expr) -> Expr:
    """n!; a symbol above LARGEST_FACTORIAL."""
    if isinstance(n, Rational) and n > LARGEST_FACTORIAL:
        return Symbol(f"{n}!{MARK}", positive=True)
    if is_large(n):
        return Symbol(f"({n})!{MARK}", positive=True)
    return sympy.factorial(n)


def binomial(n: Expr, k: Expr) -> Expr:
    """n over k; a symbol where n is above LARGEST_FACTORIAL."""
    if is_large(n) or is_large(k) or (isinstance(n, Rational) and abs(n) > LARGEST_FACTORIAL):
        return Symbol(f"binom({n},{k}){MARK}", positive=True)
    return sympy.binomial(n, k)


def is_large(value: Expr) -> bool:
    """Whether a symbol stands in it for a number that was not written out."""
    return any(MARK in str(symbol) for symbol in value.free_symbols)


def with_primes(value: Expr) -> Expr:
    """Numbers that multiply such symbols, as powers of the same primes: 2 * P2^9 is P2^10."""
    if value.is_Add:
        return sympy.Add(*(with_primes(cast(Expr, term)) for term in value.args))
    if not value.is_Mul:
        return value
    number, rest = value.as_coeff_Mul()
    return _by_primes(number, Integer(1)) * rest if isinstance(number, Rational) else value


def _by_primes(base: Expr, exponent: Expr) -> Expr:
    if not isinstance(base, Rational) or base <= 0 or _bits(base) > MOST_BITS:
        sign = Integer(-1) if isinstance(base, Rational) and base < 0 else None
        if sign is None or not isinstance(exponent, Integer):
            return _refuse()
        return _by_primes(-base, exponent) * sign ** (exponent % 2)
    result: Expr = Integer(1)
    for whole, direction in ((int(base.p), 1), (int(base.q), -1)):
        for factor, times in sympy.factorint(whole, limit=TRIAL).items():
            result *= Symbol(f"{factor}{MARK}", positive=True) ** (direction * times * exponent)
    return result


def _bits(base: Rational) -> float:
    """Bits of the larger of numerator and denominator, as a real number."""
    largest = max(abs(int(base.p)), int(base.q))
    return math.log2(largest) if largest < 1 << 1000 else float(largest.bit_length())


def _refuse() -> Expr:
    raise TooLarge("too large to be computed")
