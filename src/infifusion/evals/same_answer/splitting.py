"""A text cut where a sign stands outside all brackets."""

from __future__ import annotations

import re
from collections.abc import Iterable

PIECE = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
AND = re.compile(r",?\s+(?:and|or)\s+|\\(?:and|or)(?![A-Za-z])")
OPENING = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"}
CLOSING = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"}


def split(text: str, signs: Iterable[str]) -> list[str]:
    """The parts between signs that stand outside brackets, blanks around them cut away.

    A half-open interval's brackets close one another. One part where brackets do not match.
    """
    return [part for part, _ in split_with(text, signs)]


def split_with(text: str, signs: Iterable[str]) -> list[tuple[str, str]]:
    """The parts, each with the sign that stands behind it; "" behind the last one."""
    wanted = set(signs)
    parts: list[tuple[str, str]] = []
    depth, begin = 0, 0
    for found in PIECE.finditer(text):
        piece = found[0]
        depth += (piece in OPENING) - (piece in CLOSING)
        if depth < 0:
            return [(text.strip(), "")]
        if depth == 0 and piece in wanted:
            parts.append((text[begin : found.start()].strip(), piece))
            begin = found.end()
    if depth:
        return [(text.strip(), "")]
    return [*parts, (text[begin:].strip(), "")]


def is_one(text: str) -> bool:
    """Whether it is one answer: no comma outside brackets, no `and`, no `or`."""
    return len(split(AND.sub(" ; ", f" {text} "), ",;")) == 1


def inside(text: str) -> tuple[str, str, str] | None:
    """(opening, what stands between, closing) where one pair of brackets is the whole text."""
    pieces = list(PIECE.finditer(text))
    if len(pieces) < 2 or pieces[0][0] not in OPENING or pieces[-1][0] not in CLOSING:
        return None
    depth = 0
    for found in pieces:
        depth += (found[0] in OPENING) - (found[0] in CLOSING)
        if depth == 0 and found is not pieces[-1]:
            return None
    if depth:
        return None
    return pieces[0][0], text[pieces[0].end() : pieces[-1].start()].strip(), pieces[-1][0]
