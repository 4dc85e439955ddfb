"""Ratios: `3:4`, `3 to 4`, `1:2:3`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr

from infifusion.evals.same_answer import values
from infifusion.evals.same_answer.amounts import Amount, exact
from infifusion.evals.same_answer.clock import TIME
from infifusion.evals.same_answer.splitting import split


@dataclass(frozen=True)
class Ratio:
    """Two or more terms, none of them zero; time: it may also be a time of the day."""

    terms: tuple[Expr, ...]
    time: bool

    def same(self, other: object) -> bool:
        """Equal term by term but for a factor; 3:4 is 3/4."""
        if isinstance(other, Amount):
            alone = len(self.terms) == 2 and not self.time and other.unit.none
            return alone and values.equal(self.terms[0] / self.terms[1], other.value)
        if not isinstance(other, Ratio) or len(self.terms) != len(other.terms):
            return False
        if self.time and other.time:
            return False
        return all(
            values.equal(mine * other.terms[0], its * self.terms[0])
            for mine, its in zip(self.terms, other.terms, strict=True)
        )


def readings(text: str) -> Iterator[Ratio]:
    """The ratio that a cleaned text is."""
    parts = split(re.sub(r"(?<=\d)\s+to\s+(?=\d)", ":", text), ":")
    if not 2 <= len(parts) <= 8 or not all(parts):
        return
    terms = [exact(part) for part in parts]
    if all(term is not None and term != 0 for term in terms):
        yield Ratio(tuple(t for t in terms if t is not None), bool(TIME.fullmatch(text)))
