"""Units of measurement and money: what may be converted, and by which exact factor."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sympy
from sympy import Expr, Integer, Rational

# name -> (what it measures, exact factor). Names are lower case and singular, with the plural's s
# cut off; those in ABBREVIATED are taken as they are.
KNOWN: dict[str, tuple[str, Expr]] = {}


def _add(kind: str, **factors: str) -> None:
    for names, factor in factors.items():
        for name in names.split("_"):
            KNOWN[name] = (kind, Rational(factor))


_add("length", mm_millimeter_millimetre="1/1000", cm_centimeter_centimetre="1/100",
     m_meter_metre="1", km_kilometer_kilometre="1000", in_inch_inche="254/10000",
     ft_foot_feet="3048/10000", yd_yard="9144/10000", mi_mile="1609344/1000",
     dm_decimeter_decimetre="1/10")  # fmt: skip
_add("mass", mg_milligram="1/1000000", g_gram="1/1000", kg_kilogram="1", t_ton_tonne="1000",
     lb_lbs_pound="45359237/100000000", oz_ounce="45359237/1600000000")  # fmt: skip
_add("time", s_sec_second="1", min_minute="60", h_hr_hour="3600", day="86400", week="604800",
     ms_millisecond="1/1000")  # fmt: skip
_add("month", month="1", year_yr="12")
_add("volume", ml_mL_milliliter_millilitre="1/1000", l_L_liter_litre="1", cl_centiliter="1/100")
_add("us volume", cup="1", pint="2", quart="4", gallon_gal="16")
_add("dollar", dollar_buck="1", cent="1/100", penny_pennie="1/100")
_add("euro", euro_eur="1")
_add("pound sterling", quid="1")
_add("yen", yen="1")
_add("generic", unit="1")
_add("celsius", celsius="1")
_add("fahrenheit", fahrenheit="1")
_add("kelvin", kelvin="1")
KNOWN["percent"] = ("percent", Rational(1, 100))
KNOWN["degree"] = ("angle", sympy.pi / 180)
KNOWN["radian"] = KNOWN["rad"] = ("angle", Integer(1))

SIGNS = {"$": "dollar", "€": "euro", "£": "quid", "¥": "yen", "¢": "cent", "%": "percent"}
CODES = {"USD": "dollar", "EUR": "euro", "GBP": "quid", "JPY": "yen"}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
SCALES["trillion"] = 10**12
ONE_LETTER = re.compile(r"\A[mgshlLt]\Z")
# Words behind a number that make more of it than a number of things.
_NOT_THINGS = (
    "or and not than more less least most over under half minus plus times mod base remainder "
    "to if when for is are was were be but because so then since where with equal equals only "
    "either sin cos tan log ln sqrt pi infinity root squared cubed th st nd rd dozen"
)
NOT_THINGS = set(_NOT_THINGS.split())


ONE = Integer(1)


@dataclass(frozen=True)
class Unit:
    """kind: what it measures, "" for things that are counted; factor: to the kind's own unit;
    words: names of things, and of what has no kind."""

    kind: str = ""
    factor: Expr = ONE
    words: frozenset[str] = frozenset()

    @property
    def none(self) -> bool:
        return not self.kind and not self.words

    def fits(self, other: Unit) -> bool:
        """Whether amounts in both can be compared: red apples are apples, cents dollars."""
        if self.kind != other.kind:
            return False
        return self.words <= other.words or other.words <= self.words


def unit_of(phrase: str) -> Unit | None:
    """`cm^2`, `square feet`, `miles per hour`, `cents`, `red apples`; None for what is no unit."""
    phrase = phrase.strip().rstrip(".")
    for short, long in (("mph", "miles/hour"), ("kmh", "km/hour"), ("kph", "km/hour")):
        phrase = re.sub(rf"\A{short}\Z", long, phrase)
    phrase = re.sub(r"\s+(?:per|an?)\s+(?=[A-Za-z]+\Z)|\s*/\s*", "/", phrase)
    above, slash, below = phrase.partition("/")
    if slash:
        over, under = _known(above), _known(below)
        if over is None or under is None:
            return _things(phrase.replace("/", " per "))
        return Unit(f"{over.kind}/{under.kind}", over.factor / under.factor)
    return _known(phrase) or _things(phrase)


def _known(phrase: str) -> Unit | None:
    """One unit with its exponent."""
    phrase, power = phrase.strip(), 1
    for number, words in ((2, r"square|sq\.?"), (3, r"cubic|cu\.?")):
        if found := re.fullmatch(rf"(?:{words})\s+(.+)", phrase, re.IGNORECASE):
            phrase, power = found[1], number
    if found := re.fullmatch(r"(.+?)\s*\^\s*\{?\s*([23])\s*\}?", phrase):
        phrase, power = found[1], int(found[2])
    if found := re.fullmatch(r"(.+?)\s+(squared|cubed)", phrase):
        phrase, power = found[1], 2 if found[2] == "squared" else 3
    phrase = re.sub(r"\Adegrees? (?=celsius|fahrenheit)", "", phrase, flags=re.IGNORECASE)
    name = phrase.strip().rstrip(".")
    found_unit = KNOWN.get(name) or KNOWN.get(name.lower()) if len(name) > 1 else KNOWN.get(name)
    if found_unit is None and len(name) > 3:
        found_unit = KNOWN.get(name.lower().removesuffix("s"))
    if found_unit is None:
        return None
    kind, factor = found_unit
    return Unit(kind if power == 1 else f"{kind}^{power}", factor**power)


def _things(phrase: str) -> Unit | None:
    """Names of things that are counted, without their plural's s."""
    words = [word.lower() for word in re.findall(r"[A-Za-z'-]+", phrase)]
    if not 0 < len(words) <= 6 or not re.fullmatch(r"[A-Za-z' -]+", phrase):
        return None
    if len(words[0]) < 3 or NOT_THINGS & set(words):
        return None
    left_out = {"the", "a", "an", "of", "old", "total", "in", "each", "per"}
    stems = {word.removesuffix("s") for word in words if word not in left_out}
    return Unit(words=frozenset(stems))
