"""Sets of real numbers: intervals, their unions, inequalities of one variable and of several."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import sympy
from sympy import Expr, Symbol, oo

from infifusion.evals.same_answer import values
from infifusion.evals.same_answer.amounts import exact
from infifusion.evals.same_answer.splitting import inside, split, split_with

SIGNS = {"<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!="}
TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
ALL = {r"\mathbb{R}", "all real numbers", "all reals", "all real", "r", "reals", "real numbers"}
ALL |= {r"\mathbb R", r"x \in \mathbb{R}", "the real numbers", "all real numbers x"}
VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?")
OR, AND = re.compile(r"\s*,?\s+or\s+|\s*\\cup\s*"), re.compile(r"\s*,?\s+and\s+")
U = re.compile(r"(?<=[\])}])\s*U\s*(?=[\[({\\])")


@dataclass(frozen=True)
class Piece:
    """From low to high; open_low, open_high: whether an end is left out."""

    low: Expr
    open_low: bool
    high: Expr
    open_high: bool

    def same(self, other: Piece) -> bool:
        ends = (self.open_low, self.open_high) == (other.open_low, other.open_high)
        return ends and all(
            values.equal(one, its) for one, its in ((self.low, other.low), (self.high, other.high))
        )


@dataclass(frozen=True)
class Ranges:
    """Pieces that do not touch, in order; variable: the one they are of, "" where none is named."""

    pieces: tuple[Piece, ...]
    variable: str

    def same(self, other: object) -> bool:
        """The same pieces, of the same variable where both name one."""
        if not isinstance(other, Ranges) or len(self.pieces) != len(other.pieces):
            return False
        if self.variable and other.variable and self.variable != other.variable:
            return False
        return all(one.same(its) for one, its in zip(self.pieces, other.pieces, strict=True))


@dataclass(frozen=True)
class Relation:
    """expression > 0, or >= 0; of several variables."""

    expression: Expr
    strict: bool

    def same(self, other: object) -> bool:
        """Equal up to a positive factor."""
        if not isinstance(other, Relation) or self.strict != other.strict:
            return False
        return values.proportional(self.expression, other.expression, positive=True)


def readings(text: str) -> Iterator[Ranges | Relation]:
    """The set of real numbers that a cleaned text is."""
    text = U.sub(r" \\cup ", text)
    pair = inside(text)
    if pair and pair[0] == "\\{":
        halves = split(pair[1], ":|")
        if len(halves) != 2:
            return
        text = halves[1]
    name, belongs, rest = text.partition("\\in ")
    if not belongs:
        name, belongs, rest = text.partition("\\in")
        belongs = belongs if rest[:1] in "([\\" else ""
    name = name.strip()
    if belongs and VARIABLE.fullmatch(name):
        yield from _united(rest.strip(), name)
    elif any(sign in text for sign in ("<", ">", "\\le", "\\ge", "\\ne")):
        yield from _relations(text)
    else:
        yield from _united(text, "")


def _united(text: str, variable: str) -> Iterator[Ranges]:
    """A union of intervals and finite sets, or all numbers but some."""
    whole, without, left_out = text.partition("\\setminus")
    if not without and re.fullmatch(r"\\mathbb\s*\{?R\}?\s*-\s*\\\{.*", text):
        whole, _, left_out = text.partition("-")
    if left_out:
        if whole.strip() in ALL and (gaps := _points(left_out.strip())) is not None:
            yield _ranges([(-oo, oo)], gaps, variable)
        return
    pieces: list[Piece] = []
    for part in split(text, ["\\cup"]):
        piece = _interval(part)
        if part in ALL or part.lower() in ALL:
            pieces.append(Piece(-oo, True, oo, True))
        elif piece is not None:
            pieces.append(piece)
        elif (points := _points(part)) is not None and part != text:
            pieces += [Piece(point, False, point, False) for point in points]
        else:
            return
    found = _in_order(pieces)
    if found is not None:
        yield Ranges(found, variable)


def _ranges(ends: list[tuple[Expr, Expr]], gaps: list[Expr], variable: str) -> Ranges:
    """All real numbers but some."""
    order = sorted(gaps, key=lambda gap: gap.evalf())
    cuts = [ends[0][0], *order, ends[-1][1]]
    pieces = [Piece(a, True, b, True) for a, b in pairwise(cuts)]
    return Ranges(tuple(pieces), variable)


def _points(text: str) -> list[Expr] | None:
    pair = inside(text)
    if not pair or pair[0] != "\\{":
        return None
    points = [exact(part) for part in split(pair[1], ",")]
    known = [point for point in points if point is not None and not point.free_symbols]
    return known if len(known) == len(points) else None


def _interval(text: str) -> Piece | None:
    pair = inside(text)
    if not pair or pair[0] not in "([" or pair[2] not in ")]":
        return None
    ends = split(pair[1], ",")
    if len(ends) != 2:
        return None
    low, high = exact(ends[0]), exact(ends[1])
    if low is None or high is None:
        return None
    order = values.compare(low, high)
    if order == 1 or (order == 0 and pair[0] + pair[2] != "[]"):
        return None
    return Piece(low, pair[0] == "(" or low == -oo, high, pair[2] == ")" or high == oo)


def _in_order(pieces: list[Piece]) -> tuple[Piece, ...] | None:
    """Sorted, and joined where they touch; None where ends cannot be compared."""
    if len(pieces) < 2:
        return tuple(pieces)
    if any(end.free_symbols for piece in pieces for end in (piece.low, piece.high)):
        return None
    sets = [sympy.Interval(p.low, p.high, p.open_low, p.open_high) for p in pieces]
    return _pieces_of(sympy.Union(*sets))


def _pieces_of(whole: sympy.Set) -> tuple[Piece, ...] | None:
    """The pieces of a sympy set, in order; None where it is of another kind."""
    found: list[Piece] = []
    for part in whole.args if isinstance(whole, sympy.Union) else [whole]:
        if isinstance(part, sympy.Interval):
            low, high = cast(Expr, part.start), cast(Expr, part.end)
            found.append(Piece(low, bool(part.left_open), high, bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            points = [cast(Expr, point) for point in part.args]
            found += [Piece(point, False, point, False) for point in points]
        elif part is sympy.S.Reals:
            found.append(Piece(-oo, True, oo, True))
        else:
            return None
    return tuple(sorted(found, key=lambda piece: (piece.low.evalf(), piece.high.evalf())))


def _relations(text: str) -> Iterator[Ranges | Relation]:
    """`x < 1 or x > 2`, `x > 1 and x < 2`, `1 < x < 2`. With a comma: both, where that can be."""
    sets: list[sympy.Set] = []
    variables: set[Symbol] = set()
    for option in OR.split(text):
        chosen: sympy.Set = sympy.S.Reals
        for part in AND.split(option):
            commas = split(part, ",;")
            several = [_chain(one) for one in commas]
            if len(several) == 1 and len(several[0]) == 1 and len(_symbols(several[0])) > 1:
                yield from _of_several(several[0][0])
                return
            variables |= set().union(*map(_symbols, several)) if several else set()
            if not all(several) or len(variables) != 1:
                return
            parts = [_solved(one) for one in several]
            both = sympy.Intersection(*parts)
            chosen = sympy.Intersection(chosen, both if both else sympy.Union(*parts))
        sets.append(chosen)
    pieces = _pieces_of(sympy.Union(*sets))
    if pieces:
        yield Ranges(pieces, str(*variables))


def _chain(text: str) -> list[tuple[Expr, str, Expr]]:
    """1 < x < 2 is 1 < x and x < 2; [] for what is no chain of inequalities."""
    parts = split_with(text, SIGNS)
    sides = [exact(side) for side, _ in parts]
    if len(parts) < 2 or len(parts) > 4:
        return []
    found = []
    for at, (_, sign) in enumerate(parts[:-1]):
        left, right = sides[at], sides[at + 1]
        if left is None or right is None or sympy.I in left.atoms() | right.atoms():
            return []
        found.append((left, SIGNS[sign], right))
    return found


def _symbols(chain: list[tuple[Expr, str, Expr]]) -> set[Symbol]:
    both = [(left - right).free_symbols for left, _, right in chain]
    return {symbol for some in both for symbol in some if isinstance(symbol, Symbol)}


def _of_several(one: tuple[Expr, str, Expr]) -> Iterator[Relation]:
    left, sign, right = one
    if sign != "!=":
        yield Relation(left - right if sign[0] == ">" else right - left, len(sign) == 1)


def _solved(chain: list[tuple[Expr, str, Expr]]) -> sympy.Set:
    """Where all of a chain's inequalities hold, for real numbers."""
    found: sympy.Set = sympy.S.Reals
    for left, sign, right in chain:
        [variable] = (left - right).free_symbols
        if right == variable:
            left, sign, right = right, TURNED[sign], left
        if left == variable and not right.free_symbols:
            one = {
                "<": sympy.Interval.open(-oo, right),
                "<=": sympy.Interval(-oo, right),
                ">": sympy.Interval.open(right, oo),
                ">=": sympy.Interval(right, oo),
                "!=": sympy.Union(sympy.Interval.open(-oo, right), sympy.Interval.open(right, oo)),
            }[sign]
        else:
            relation = sympy.Rel(left, right, sign.replace("!=", "ne"))
            try:
                one = sympy.solve_univariate_inequality(relation, variable, relational=False)
            except (NotImplementedError, TypeError, ValueError):  # what sympy cannot solve
                one = sympy.ConditionSet(variable, relation, sympy.S.Reals)
        found = sympy.Intersection(found, one)
    return found
