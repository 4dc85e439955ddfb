"""The signs that expressions are written with, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable

import sympy
from sympy import Expr, Symbol

TOKEN = re.compile(r"\d+\.?\d*|\.\d+|\\[A-Za-z]+|\\[{}|]|[A-Za-z]+|\s+|.", re.DOTALL)
NAMED: dict[str, Callable[[Expr], Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
    "csc": sympy.csc, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
    "asin": sympy.asin, "acos": sympy.acos, "atan": sympy.atan, "arccot": sympy.acot,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "ln": sympy.log, "exp": sympy.exp,
    "lg": lambda x: sympy.log(x, 10), "log": lambda x: sympy.log(x, 10), "abs": sympy.Abs,
    "floor": sympy.floor, "ceil": sympy.ceiling, "Re": sympy.re, "Im": sympy.im,
}  # fmt: skip
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
CIRCULAR = {"sin", "cos", "tan", "cot", "sec", "csc"}
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
