"""What a colon can mean, times of the day and ratios (`3:4`, `3 to 4`, `1:2:3`); and dates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr

from infifusion.evals.same_answer import values
from infifusion.evals.same_answer.amounts import Amount, exact
from infifusion.evals.same_answer.splitting import split

HALF_DAY = 12 * 60
TIME = re.compile(r"(\d{1,2})(?:\s*:\s*(\d\d))?\s*(?:(a|p)\.?\s?m\.?)?(?:\s*o'clock)?", re.I)
NAMES = "january february march april may june july august september october november december"
MONTHS = {name[:3]: at for at, name in enumerate(NAMES.split(), 1)}
MONTHS |= {name: at for at, name in enumerate(NAMES.split(), 1)} | {"sept": 9}
MONTH = r"(?P<month>[A-Za-z]{3,9})\.?"
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?:,?\s+(?P<year>\d{4}))?"
DATES = [
    re.compile(rf"{MONTH}\s+(?:the\s+)?{DAY}{YEAR}"),
    re.compile(rf"(?:the\s+)?{DAY}\s+(?:of\s+)?{MONTH}{YEAR}"),
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"),
]


@dataclass(frozen=True)
class Time:
    """Minutes after midnight; half: whether it is known which half of the day is meant."""

    minutes: int
    half: bool

    def same(self, other: object) -> bool:
        """6:00 is 6:00 p.m. and 6:00 a.m., which are not the same."""
        if not isinstance(other, Time):
            return False
        if self.half and other.half:
            return self.minutes == other.minutes
        return self.minutes % HALF_DAY == other.minutes % HALF_DAY


@dataclass(frozen=True)
class Date:
    """A day, of a year where one is given."""

    year: int | None
    month: int
    day: int

    def same(self, other: object) -> bool:
        return isinstance(other, Date) and self == other


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


def readings(text: str) -> Iterator[Time | Date | Ratio]:
    """The time, the ratio or the date that a cleaned text is."""
    yield from _ratios(text)
    lower = text.lower()
    if lower in ("noon", "12 noon", "midnight", "12 midnight"):
        yield Time(HALF_DAY if "noon" in lower else 0, True)
    elif (found := TIME.fullmatch(text)) and (found[2] or found[3] or "clock" in text):
        hour, minute = int(found[1]), int(found[2] or 0)
        if found[3] and 1 <= hour <= 12 and minute < 60:
            later = HALF_DAY if found[3].lower() == "p" else 0
            yield Time(hour % 12 * 60 + minute + later, True)
        elif not found[3] and hour < 24 and minute < 60:
            yield Time(hour * 60 + minute, hour > 12 or found[1].startswith("0"))
    for pattern in DATES:
        if found := pattern.fullmatch(text):
            month, day = found["month"].lower(), int(found["day"])
            number = int(month) if month.isdigit() else MONTHS.get(month)
            if number and number <= 12 and 1 <= day <= 31:
                yield Date(int(found["year"]) if found["year"] else None, number, day)


def _ratios(text: str) -> Iterator[Ratio]:
    """The ratio that a cleaned text is."""
    parts = split(re.sub(r"(?<=\d)\s+to\s+(?=\d)", ":", text), ":")
    if not 2 <= len(parts) <= 8 or not all(parts):
        return
    terms = [exact(part) for part in parts]
    if all(term is not None and term != 0 for term in terms):
        yield Ratio(tuple(t for t in terms if t is not None), bool(TIME.fullmatch(text)))
