"""Times of the day and dates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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


def readings(text: str) -> Iterator[Time | Date]:
    """The time or the date that a cleaned text is."""
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
