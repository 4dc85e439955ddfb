"""Answers in words, and letters of a multiple choice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LETTER = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)\s*:?\s*)?"
    r"(?:\(\s*(?P<enclosed>[A-Ja-j])\s*\)|(?P<open>[A-J])(?P<mark>\s*[).:])?)"
    r"(?P<rest>\s+[A-Za-z0-9$\\].*)?",
    re.DOTALL,
)
MEANINGS = {
    "no solution": "nothing", "no solutions": "nothing", "none": "nothing",
    "no real solution": "nothing", "no real solutions": "nothing", "empty set": "nothing",
    r"\emptyset": "nothing", r"\{\}": "nothing", r"\{ \}": "nothing", "no such number": "nothing",
    "dne": "does not exist", "undefined": "does not exist",
    "infinitely many solutions": "infinitely many", "infinite solutions": "infinitely many",
}  # fmt: skip
FILLERS = re.compile(r"\A(?:an?|the|it is|it's)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Words:
    """A text of letters, in lower case."""

    text: str

    def same(self, other: object) -> bool:
        return isinstance(other, Words) and self == other


@dataclass(frozen=True)
class Letter:
    """A letter of a multiple choice; alone: nothing but one letter, which may be a variable."""

    name: str
    alone: bool

    def same(self, other: object) -> bool:
        """(C) is C and (c), but not c, which may be a variable."""
        if not isinstance(other, Letter):
            return False
        variable = any(one.alone and one.name.islower() for one in (self, other))
        if variable or (self.alone and other.alone):
            return self.name == other.name
        return self.name.upper() == other.name.upper()


def readings(text: str) -> Iterator[Words | Letter]:
    """The words or the letter that a cleaned text is."""
    if re.fullmatch("[A-Za-z]", text):
        yield Letter(text, alone=True)
    elif found := LETTER.fullmatch(text):
        name = found["enclosed"] or found["open"]
        if not found["rest"] or (name.isupper() and (found["enclosed"] or found["mark"])):
            yield Letter(name, alone=False)
    plain = MEANINGS.get(text.lower().strip())
    if plain is None:
        plain = FILLERS.sub("", re.sub(r"\s+", " ", text)).strip().lower()
        if not re.fullmatch(r"[^\W\d_](?:[^\W\d_]|[' -])*[^\W\d_]", plain):
            return
        plain = MEANINGS.get(plain, plain)
    yield Words(plain)
