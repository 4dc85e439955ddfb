"""An expression, as LaTeX or as plain text writes it, read into sympy.

latex2sympy2_extended reads LaTeX, too, but not so that two answers can be compared: version 1.11
takes `3 4` for 7, `2^3^4` for (2^3)^4, A and a for one symbol, `sqrt(3)` for q r s t(3) and 0.1 for
a binary fraction, does not read `\\frac12`, `\\sqrt3` or `5.`, and reads `%` or not depending on
which ANTLR runtime is installed. Here nothing is guessed: what is not understood is `Unread`.
"""

from __future__ import annotations

import re
from itertools import pairwise

import sympy
from sympy import Expr, Integer, Rational, Symbol

from infifusion.evals.same_answer import large
from infifusion.evals.same_answer.functions import (
    CONSTANTS,
    DECORATED,
    DEGREE,
    GLUED,
    GREEK,
    NAMED,
    OPENING,
    PLAIN_GREEK,
    TOKEN,
    Functions,
    Unread,
)

MOST_TOKENS = 600
DEEPEST = 40  # groups within one another
MOST_DIGITS = 4_000


def expression(text: str) -> Expr:
    """Cleaned text (cleaning.clean) as an exact expression. Unread, or large.TooLarge."""
    tokens = TOKEN.findall(text)
    if len(tokens) > MOST_TOKENS:
        raise Unread("too long")
    return _Reader(tokens).whole()


def number(digits: str) -> Rational:
    """A decimal, exactly."""
    if len(digits) > MOST_DIGITS:
        raise Unread("too many digits")
    whole, _, part = digits.partition(".")
    value = Rational(int(whole + part or "0"), 10 ** len(part))
    assert isinstance(value, Rational)
    return value


class _Reader(Functions):
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.depth = 0

    def whole(self) -> Expr:
        value = self.sum()
        if self.peek():
            raise Unread(f"{self.peek()!r} is left over")
        return value

    # Sums and products.

    def sum(self) -> Expr:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unread("too deep")
        value = self.signed()
        while (sign := self.peek()) in ("+", "-"):
            self.at += 1
            term = self.signed()
            value = value + term if sign == "+" else value - term
        self.depth -= 1
        return value

    def signed(self) -> Expr:
        """A product with at most two signs in front of it."""
        minus = 0
        for _ in range(2):
            if self.accept("-"):
                minus += 1
            elif not self.accept("+"):
                break
        value = self.product()
        return -value if minus % 2 else value

    def product(self) -> Expr:
        value = self.first_factor()
        while token := self.peek():
            if token in ("*", "\\cdot"):
                self.at += 1
                value = value * self.factor_with_sign()
            elif token == "/":
                self.at += 1
                value = self.divided(value, self.factor_with_sign())
            elif self.starts_factor(token) and (
                not (token[0].isdigit() or token[0] == ".") or self.behind() == "!"
            ):
                value = value * self.power()
            else:
                break
        return value

    def divided(self, value: Expr, by: Expr) -> Expr:
        if by == 0:
            raise Unread("division by zero")
        return value / by

    def factor_with_sign(self) -> Expr:
        if self.accept("-"):
            return -self.power()
        self.accept("+")
        return self.power()

    def first_factor(self) -> Expr:
        """A factor; a whole number and a fraction behind it are a mixed number."""
        start = self.at
        token = self.peek()
        value = self.power()
        if not token.isdigit() or not isinstance(value, Integer):
            return value
        plain = "".join(self.tokens[start : self.at]).strip() == token
        following = "".join(self.tokens[self.at :])
        found = re.match(
            r"\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d)(?=\D|\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
            r"|(\d+)\s*/\s*(\d+)(?![\d.])",
            following,
        )
        if not plain or not found:
            return value
        above, below = (int(part) for part in found.groups() if part)
        if not 0 < above < below:
            return value
        self.tokens = TOKEN.findall(following[found.end() :])
        self.at = 0
        return value + Rational(above, below)

    # Powers.

    def power(self) -> Expr:
        applied = self.atom()
        value = self.postfix(applied)
        if self.accept("^"):
            value = large.power(value, self.exponent())
            value = self.postfix(value)
        return value

    def postfix(self, value: Expr) -> Expr:
        while True:
            if self.peek() == "!":
                self.at += 1
                value = large.factorial(value)
            elif self.peek() == "°":
                self.at += 1
                value = value * DEGREE
            else:
                return value

    def exponent(self) -> Expr:
        if self.peek() == "{":
            return self.group()
        negative = self.accept("-")
        self.accept("+")
        value = self.atom()
        if self.accept("^"):
            value = large.power(value, self.exponent())
        return -value if negative else value

    def group(self) -> Expr:
        closing = OPENING[self.take()]
        bars, self.bars = self.bars, 0
        value = self.sum()
        self.expect(closing)
        self.bars = bars
        return value

    def argument(self) -> Expr:
        """What stands behind \\frac, \\sqrt or \\binom: a group, a digit, a letter or a command."""
        token = self.peek()
        if token == "{":
            return self.group()
        if token and token[0].isdigit() and len(token) > 1 and token.isdigit():
            self.at += 1
            self.tokens = [token[1:], *self.tokens[self.at :]]
            self.at = 0
            return Integer(int(token[0]))
        return self.atom()

    # Atoms.

    def atom(self) -> Expr:
        token = self.peek()
        if token in OPENING and token != "\\{":
            return self.group()
        self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            if not token.isascii() or self.peek() == "_":
                raise Unread("a number with an index")
            return number(token)
        if token == "|":
            self.bars += 1
            value = self.sum()
            self.expect("|")
            self.bars -= 1
            return sympy.Abs(value)
        if token[0] == "\\":
            return self.command(token[1:])
        if token.isascii() and token.isalpha():
            return self.word(token)
        raise Unread(f"{token!r}")

    def command(self, name: str) -> Expr:
        if name == "frac":
            above = self.argument()
            return self.divided(above, self.argument())
        if name == "binom":
            above = self.argument()
            return large.binomial(above, self.argument())
        if name == "sqrt":
            index: Expr = Integer(2)
            if self.peek() == "[":
                index = self.group()
            return root(self.root_argument(), index)
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.expect("\\r" + name[1:])
            return sympy.floor(value) if name == "lfloor" else sympy.ceiling(value)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in NAMED:
            return self.applied(name)
        if name in GREEK or name == "ell":
            return self.symbol(name)
        if name in DECORATED:
            start = self.at
            if self.peek() != "{":
                raise Unread(name)
            while self.tokens[self.at : self.at + 1] not in (["}"], []):
                self.at += 1
            self.expect("}")
            return Symbol(name + "".join("".join(self.tokens[start : self.at]).split()))
        raise Unread("\\" + name)

    def root_argument(self) -> Expr:
        """\\sqrt3 in LaTeX; sqrt(3), sqrt3, \u221a3 and \u221a12 in plain text."""
        token = self.peek()
        if token and token[0].isdigit():
            return number(self.take())
        return self.argument()

    def word(self, name: str) -> Expr:
        """A run of letters: a function, a constant, or variables side by side."""
        if name in ("sqrt", "cbrt"):
            return root(self.root_argument(), Integer(2 if name == "sqrt" else 3))
        if name in NAMED and (len(name) > 2 or name in ("ln", "lg")):
            return self.applied(name)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in PLAIN_GREEK:
            return self.symbol(name)
        if len(name) == 1:
            return self.letter(name)
        parts = GLUED.findall(name)
        glued = "".join(parts) == name and any(len(part) > 1 for part in parts)
        ascending = all(one < other for one, other in pairwise(name))
        if glued and len(name) <= 14:
            pieces = parts
        elif len(name) == 2 or (ascending and len(name) <= 6):
            pieces = list(name)
        else:
            raise Unread(f"the word {name!r}")
        self.tokens[self.at - 1 : self.at] = [
            "\\" + piece if len(piece) > 1 else piece for piece in pieces
        ]
        self.at -= 1
        token = self.take()
        return self.command(token[1:]) if token[0] == "\\" else self.letter(token)


def root(value: Expr, index: Expr) -> Expr:
    """The real root where there is one."""
    if index == 0:
        raise Unread("a root's index")
    if isinstance(index, Integer) and index % 2 == 1 and value.is_negative:
        return -large.power(-value, 1 / index)
    return large.power(value, 1 / index)
