"""Matrices, column vectors and determinants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import sympy
from sympy import Expr

from infifusion.evals.same_answer.amounts import Amount, exact
from infifusion.evals.same_answer.groups import TUPLE, Again, Group
from infifusion.evals.same_answer.splitting import inside, split
from infifusion.evals.same_answer.units import Unit

MATRIX = re.compile(
    r"(?P<factor>[^&]*?)(?P<opening>[\[(|]?)\s*"
    r"\\begin\s*\{(?P<kind>[pbvB]?matrix|smallmatrix|array)\}\s*(?:\{[clr| ]*\})?"
    r"(?P<body>.*?)\\end\s*\{(?P=kind)\}\s*[\])|]?\s*(?P<turned>\^\s*\{?\s*(?:T|\\top)\s*\}?)?",
    re.DOTALL,
)
MOST_ENTRIES = 100
LARGEST_DETERMINANT = 5


@dataclass(frozen=True)
class Matrix:
    """Rows of entries, as texts."""

    rows: tuple[tuple[str, ...], ...]

    def same(self, other: object, again: Again) -> bool:
        """Entry by entry; a column, or a row, is also the tuple of its entries."""
        if isinstance(other, Group):
            flat = [entry for row in self.rows for entry in row]
            vector = len(self.rows) == 1 or len(self.rows[0]) == 1
            fits = vector and other.kind == TUPLE and len(flat) == len(other.items)
            return fits and all(again(*pair) for pair in zip(flat, other.items, strict=True))
        if not isinstance(other, Matrix):
            return False
        if [len(row) for row in self.rows] != [len(row) for row in other.rows]:
            return False
        mine, its = ([entry for row in m.rows for entry in row] for m in (self, other))
        return all(again(*pair) for pair in zip(mine, its, strict=True))


def readings(text: str) -> Iterator[Matrix | Amount]:
    """The matrix that a cleaned text is; the value of a determinant."""
    if "\\begin" in text:
        found = MATRIX.fullmatch(text)
        if not found:
            return
        body = re.sub(r"\\hline|\\vspace\{[^}]*\}", " ", found["body"])
        lines = [line.strip() for line in body.split("\\\\")]
        rows = [[cell.strip() for cell in line.split("&")] for line in lines if line]
        factor = found["factor"].strip().removesuffix("\\cdot").strip()
        if found["kind"] == "vmatrix" or found["opening"] == "|":
            yield from _determinant(rows, factor)
            return
        if factor:
            factor = f"{factor}1" if factor in "+-" else factor
            rows = [[f"({factor}) \\cdot ({cell})" for cell in row] for row in rows]
        if found["turned"]:
            rows = [list(column) for column in zip(*rows, strict=False)]
        yield from _matrix(rows)
    elif (pair := inside(text)) and pair[0] == "[" and pair[1].startswith("["):
        inner = [inside(row) for row in split(pair[1], ",")]
        rows = [split(row[1], ",") for row in inner if row is not None and row[0] == "["]
        if len(rows) == len(inner):
            yield from _matrix(rows)


def _matrix(rows: list[list[str]]) -> Iterator[Matrix]:
    count = sum(map(len, rows))
    if 0 < count <= MOST_ENTRIES and all(cell for row in rows for cell in row):
        yield Matrix(tuple(map(tuple, rows)))


def _determinant(rows: list[list[str]], factor: str) -> Iterator[Amount]:
    cells = [[exact(cell) for cell in row] for row in rows]
    square = all(len(row) == len(rows) for row in rows) and len(rows) <= LARGEST_DETERMINANT
    if square and not factor and all(cell is not None for row in cells for cell in row):
        yield Amount(cast(Expr, sympy.Matrix(cells).det()), Unit())
