"""Functions and variables within an expression: `\\sin^2 x`, `\\log_2 8`, `f(x)`, `x_1`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import sympy
from sympy import Expr, I, Integer, Symbol

from infifusion.evals.same_answer import large
from infifusion.evals.same_answer.tokens import (
    APPLIED,
    CIRCULAR,
    DEGREE,
    INVERSE,
    NAMED,
    OPENING,
    Tokens,
    Unread,
)


class Functions(Tokens, ABC):
    """The part of the reader (reader.py) that reads them."""

    @abstractmethod
    def sum(self) -> Expr:
        """Terms with signs between them."""

    @abstractmethod
    def power(self) -> Expr:
        """An atom with its exponent."""

    @abstractmethod
    def factor_with_sign(self) -> Expr:
        """A power, perhaps with a minus."""

    @abstractmethod
    def postfix(self, value: Expr) -> Expr:
        """What stands behind an atom: `!`, a degree's sign."""

    @abstractmethod
    def exponent(self) -> Expr:
        """What stands behind ^."""

    @abstractmethod
    def argument(self) -> Expr:
        """A group, a digit, a letter or a command."""

    @abstractmethod
    def atom(self) -> Expr:
        """A number, a variable, a function's value or a group."""

    def letter(self, name: str) -> Expr:
        """i and e are the numbers; f(x) is one unknown value."""
        if self.peek() != "_":
            if name == "i":
                return I
            if name == "e":
                return sympy.E
        if name in APPLIED and self.peek() == "(":
            self.at += 1
            inside = [self.sum()]
            while self.accept(","):
                inside.append(self.sum())
            self.expect(")")
            return Symbol(f"{name}({','.join(map(str, inside))})", real=True)
        return self.symbol(name)

    def symbol(self, name: str) -> Expr:
        """A variable with its index and its primes."""
        if self.accept("_"):
            if self.peek() == "{":
                start = self.at
                depth = 0
                while True:
                    token = self.take()
                    depth += (token == "{") - (token == "}")
                    if depth == 0:
                        break
                index = "".join("".join(self.tokens[start + 1 : self.at - 1]).split())
            else:
                index = self.take()
                if not index.isalnum():
                    raise Unread("an index")
            name = f"{name}_{index}"
        while self.accept("'"):
            name += "'"
        return Symbol(name, real=True)

    def applied(self, name: str) -> Expr:
        """A function's value: `\\sin^2 x`, `\\sin^{-1} x`, `\\log_2 8`, `\\sin 2x`, `sin(x)`."""
        base: Expr | None = None
        times: Expr = Integer(1)
        if name == "log" and self.accept("_"):
            base = self.argument()
        if self.accept("^"):
            times = self.exponent()
        if times == -1 and name in INVERSE:
            name, times = INVERSE[name], Integer(1)
        value = self.function_argument()
        result: Expr
        if name in CIRCULAR:
            value = cast(Expr, value.subs(DEGREE, sympy.pi / 180))
        if name in ("ln", "log", "lg") and value == 0:
            raise Unread("the logarithm of zero")
        if base is not None:
            if base in (0, 1):
                raise Unread("a logarithm's base")
            result = cast(Expr, sympy.log(value) if base == sympy.E else sympy.log(value, base))
        elif name == "exp":
            result = large.power(sympy.E, value)
        else:
            result = NAMED[name](value)
        if self.accept("^"):  # sin(x)^2 is the square of the sine
            times = times * self.exponent()
        return result if times == 1 else large.power(result, times)

    def function_argument(self) -> Expr:
        if self.peek() in ("(", "{", "[", "|"):
            value = self.atom()
            return self.postfix(value) if self.peek() == "°" else value
        value = self.factor_with_sign()
        while (token := self.peek()) and self.starts_factor(token):
            name = token[1:] if token[0] == "\\" else token
            if name in NAMED or token in OPENING or token == "|" or token[0].isdigit():
                break
            value = value * self.power()
        if self.peek() == "/":
            following = "".join(self.tokens[self.at + 1 :]).strip()
            if following[:1].isdigit():
                raise Unread("a quotient behind a function: sin x/2 could be either")
        return value
