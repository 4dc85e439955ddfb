"""The signs, the names and the functions that expressions are written with: `\\sin^2 x`, `x_1`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import sympy
from sympy import Expr, I, Integer, Symbol

from infifusion.evals.same_answer import large

TOKEN = re.compile(r"\d+\.?\d*|\.\d+|\\[A-Za-z]+|\\[{}|]|[A-Za-z]+|\s+|.", re.DOTALL)
NAMED: dict[str, Callable[[Expr], Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
    "csc": sympy.csc, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
    "asin": sympy.asin, "acos": sympy.acos, "atan": sympy.atan, "arccot": sympy.acot,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "ln": sympy.log, "exp": sympy.exp,
    "lg": lambda x: sympy.log(x, 10), "log": lambda x: sympy.log(x, 10), "abs": sympy.Abs,
    "floor": sympy.floor, "ceil": sympy.ceiling, "Re": sympy.re, "Im": sympy.im,
    "cis": lambda x: sympy.cos(x) + I * sympy.sin(x),
}  # fmt: skip
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
CIRCULAR = {"cis", "sin", "cos", "tan", "cot", "sec", "csc"}
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu "
    "xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega"
)
GREEK = set(_GREEK.split())
PLAIN_GREEK = GREEK - {"mu", "nu", "xi", "eta", "chi", "psi", "rho", "tau", "zeta", "iota"}
CONSTANTS = {"pi": sympy.pi}
DECORATED = {"overline", "bar", "vec", "hat", "tilde", "widehat", "overrightarrow", "mathbb"}
DECORATED |= {"mathcal", "mathfrak", "widetilde", "dot", "mathscr"}
OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
APPLIED = set("fghFGHP")  # f(x) is a function's value, x(y) a product
GLUED = re.compile(r"(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|pi|[abknrtxyz])")
DEGREE = Symbol("°", positive=True)


class Unread(ValueError):
    """No expression that this reader understands."""


class Tokens:
    """A place in a row of tokens; blanks are tokens, since `3 4` is no product."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.bars = 0

    def peek(self) -> str:
        """The next token that is no blank; "" at the end."""
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def behind(self) -> str:
        """The token that was read last."""
        return "".join(self.tokens[: self.at]).rstrip()[-1:]

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise Unread("it ends too early")
        self.at += 1
        return token

    def accept(self, *wanted: str) -> bool:
        if self.peek() in wanted:
            self.at += 1
            return True
        return False

    def expect(self, wanted: str) -> None:
        if not self.accept(wanted):
            raise Unread(f"{wanted!r} is missing")

    def starts_factor(self, token: str) -> bool:
        if token == "|" or token == "\\|":
            return self.bars == 0
        if token[0] == "\\" and len(token) > 1 and token[1].isalpha():
            name = token[1:]
            known = name in NAMED or name in GREEK or name in CONSTANTS or name in DECORATED
            return known or name in ("frac", "sqrt", "binom", "lfloor", "lceil", "ell")
        return token[0].isalnum() or token[0] == "." or token in OPENING


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
