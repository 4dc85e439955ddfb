"""A number or an expression, with a unit or without: `3 cm`, `$29.00`, `50\\%`, `90^\\circ`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr, Integer, Rational, oo

from infifusion.evals.same_answer import values
from infifusion.evals.same_answer.large import TooLarge
from infifusion.evals.same_answer.reader import DEGREE, Unread, expression
from infifusion.evals.same_answer.units import (
    CODES,
    KNOWN,
    ONE_LETTER,
    SCALES,
    SIGNS,
    Unit,
    unit_of,
)

THOUSANDS = re.compile(r"(?<![\d.,_^])\d{1,3}(?:,\d{3})+(?![\d,])")
INFINITE = re.compile(r"([-+]?)\s*(?:\\infty|infinity|infty|inf)")
IN_BRACKETS = re.compile(r"[(\[][^()\[\]]*,|\\\{")
SPACED = re.compile(r"(?<![\d.,_^{])(?<!\d )\d{1,3}(?: \d{3})+(?!\s*[\d/,])")
BEFORE = re.compile(r"([-+]?)\s*(?:US|CA|AU)?\s*([$€£¥])\s*([-+]?)\s*(?=[\d.\\])(.+)", re.DOTALL)
CODE = re.compile(r"([-+]?)\s*(USD|EUR|GBP|JPY)\s*(?=[\d.])(.+)")
BEHIND = re.compile(r"(.*[\d})\]!.])\s*([$€£¥¢%]|USD|EUR|GBP|JPY)", re.DOTALL)
OF_DEGREES = re.compile(r"(.+?)\s*°\s*([CF])")
NAME = r"(?P<unit>[A-Za-z][A-Za-z .'/-]*(?:\^\s*\{?\s*[23]\s*\}?)?(?:/[A-Za-z]+)?)"
PHRASE = re.compile(r"(?P<value>.*?[\d})\]!.])(?P<blank>\s*)" + NAME, re.DOTALL)
OF_A_LETTER = re.compile(r"(?P<value>[^=]*?\\?[A-Za-z]+?)(?P<blank>\s+)" + NAME)
COMPOUND = re.compile(r"(.*\d.*?[A-Za-z.$])(?:,|\s)\s*(?:and\s+)?(\d.*[A-Za-z¢])")
# Letters alone are variables where no word is made of them: xy, AB, abc, but not `on`.
VARIABLES = re.compile(r"[abcdkmnpqrtuvwxyz]{1,3}|[A-DF-HJ-NP-Z]{1,2}|[A-Za-z]")
ORDINAL = re.compile(r"(?:the )?(\d{1,9})(?:st|nd|rd|th)")
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
WORDS: dict[str, int] = {word: at for at, word in enumerate(_WORDS.split())}


@dataclass(frozen=True)
class Amount:
    """value * unit."""

    value: Expr
    unit: Unit

    def same(self, other: object) -> bool:
        """An amount without a unit takes that of the other; a percentage and an angle also count
        by their value. 3 cm is not 3 m, and 0.5 not 0.5 %."""
        if not isinstance(other, Amount):
            return False
        if not self.unit.none and not other.unit.none:
            if not self.unit.fits(other.unit):
                return False
            return values.equal(self.value * self.unit.factor, other.value * other.unit.factor)
        plain, given = (self, other) if self.unit.none else (other, self)
        if given.unit.kind in ("percent", "angle") and values.equal(
            plain.value, given.value * given.unit.factor
        ):
            return True
        if given.unit.kind == "percent" and isinstance(given.value, Rational):
            # A share of 0.5 must not be answered by 0.5 %.
            return plain.value == given.value and abs(given.value) > 1
        return values.equal(plain.value, given.value)


def readings(text: str) -> Iterator[Amount]:
    """All that a cleaned text can mean as an amount: `3 m` is 3 metres, or 3 times m."""
    if text.lower() in WORDS:
        yield Amount(Integer(WORDS[text.lower()]), Unit())
        return
    if found := ORDINAL.fullmatch(text):
        yield Amount(Integer(int(found[1])), Unit())
    if ISO_DATE.fullmatch(text):
        return
    word = text.isalpha() and text.isascii() and not VARIABLES.fullmatch(text)
    value = exact(text)
    if value is not None and not (word and len(value.free_symbols) == len(text)):
        yield _without_degrees(value)
    if found := OF_DEGREES.fullmatch(text):
        value = exact(found[1])
        if value is not None:
            yield Amount(value, Unit("celsius" if found[2] == "C" else "fahrenheit"))
    rest, unit = _money(text)
    if unit is not None and (value := exact(rest)) is not None:
        yield Amount(value, unit)
    elif found := PHRASE.fullmatch(rest) or OF_A_LETTER.fullmatch(rest):
        yield from _with_phrase(found, unit)
    if found := COMPOUND.fullmatch(text):
        yield from _sum(found[1], found[2])


def _sum(first: str, second: str) -> Iterator[Amount]:
    """5 feet 3 inches, 2 hours and 30 minutes: the second is the smaller unit."""
    for one in readings(first.strip()):
        for other in readings(second.strip()):
            unit, less = one.unit, other.unit
            if not unit.kind or unit.kind != less.kind or unit.words | less.words:
                continue
            if values.compare(less.factor, unit.factor) == -1:
                yield Amount(one.value + other.value * less.factor / unit.factor, unit)


def exact(text: str) -> Expr | None:
    """The expression that a cleaned text stands for; None where it stands for none."""
    if found := INFINITE.fullmatch(text):
        return -oo if found[1] == "-" else oo
    if not IN_BRACKETS.search(text):  # (1,200) is a pair
        text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = SPACED.sub(lambda found: found[0].replace(" ", ""), text)
    try:
        return expression(text)
    except (Unread, TooLarge):
        return None


def _without_degrees(value: Expr) -> Amount:
    if value.has(DEGREE):
        in_degrees = value / DEGREE
        if not in_degrees.has(DEGREE):
            kind, factor = KNOWN["degree"]
            return Amount(in_degrees, Unit(kind, factor))
    return Amount(value, Unit())


def _money(text: str) -> tuple[str, Unit | None]:
    """What stands beside a sign for money or percent, and its unit; else the text and None."""
    if found := BEFORE.fullmatch(text):
        rest = (found[1] or found[3]) + found[4]
        if rest.endswith("$"):
            return text, None
        return rest, Unit(*KNOWN[SIGNS[found[2]]])
    if found := CODE.fullmatch(text):
        return found[1] + found[3], Unit(*KNOWN[CODES[found[2]]])
    if found := BEHIND.fullmatch(text):
        return found[1], Unit(*KNOWN[SIGNS.get(found[2]) or CODES[found[2]]])
    if text.endswith("%"):
        return text[:-1].strip(), Unit(*KNOWN["percent"])
    return text, None


def _with_phrase(found: re.Match[str], money: Unit | None) -> Iterator[Amount]:
    """A value with words behind it: a scale, a unit, or the names of things."""
    phrase, scale = found["unit"].strip(), 1
    first, _, rest = phrase.partition(" ")
    if first.lower() in SCALES:
        phrase, scale = rest, SCALES[first.lower()]
    unit = unit_of(phrase) if phrase else Unit()
    if unit is None:
        return
    value = exact(found["value"])
    if value is None:
        return
    things = bool(unit.words)
    short = ONE_LETTER.fullmatch(phrase) and not found["blank"]
    if ((things or ONE_LETTER.fullmatch(phrase)) and value.free_symbols) or short:
        return
    if money is not None:
        if unit.kind not in ("", money.kind):
            return
        unit = Unit(money.kind, money.factor, unit.words)
    amount = _without_degrees(value)
    if amount.unit.none:
        yield Amount(amount.value * scale, unit)
