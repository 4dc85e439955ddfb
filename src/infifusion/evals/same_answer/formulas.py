"""The numbers and the formulas that stand in a text."""

from __future__ import annotations

import re

UNITS = (
    "millimeters?|centimeters?|kilometers?|meters?|mm|cm|km|inches|inch|feet|foot|ft|yards?|miles?|"
    "kilograms?|kg|grams?|mg|pounds?|lbs?|ounces?|oz|liters?|litres?|ml|seconds?|minutes?|hours?|"
    "days?|weeks?|months?|years?|cents?|dollars?|euros?|degrees?|percent|mph|m(?= ?[.,;]?$)"
)
NUMBER = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?"
    r"|\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w))?|\.\d+)"
)
MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
# A minus counts only where nothing like a number stands before it: 10-20 ends in 20.
AMOUNT = re.compile(
    r"\d{1,2}:\d\d(?!\d)(?:\s?[ap]\.?m\b\.?)?|\d+(?::\d+)+"  # times and ratios
    rf"|\b{MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?(?:, \d{{4}})?(?!\d)"
    rf"|(?:(?<![\w.)\]}}])[-\u2212])?\\?[$€£]?(?:(?<=[$€£])[-\u2212])?{NUMBER}"
    r"(?:\s?/\s?\d+(?![\d/]))?(?:\s?(?:\\times|[x×*])\s?10\s?\^\s?\{?[-\u2212]?\d+\}?)?(?:\s?\\?%)?"
    rf"(?:\s(?:square |cubic )?(?:{UNITS})(?:\^?[23²³])?(?![A-Za-z]))?",
    re.MULTILINE,
)
FORMULA = re.compile(  # bounded, so that what never closes is not sought to the end each time
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$([^$\n]{1,2000}?)(?<!\\)\$|\\\((.{1,2000}?)\\\)"
    r"|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
# A formula without delimiters: variables of one letter, numbers, signs and brackets.
SIGN = r"\d[\d.,]*\d|\d|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\[A-Za-z]+|[\^_!(){}\[\]|√π°²³]|\\[{}]"
OPERATOR = r"[-+*/=<>×·÷≤≥\u2212]"
RUN = re.compile(
    rf"(?:[-\u2212]\s?)?(?:{SIGN})(?:\s?{OPERATOR}\s?(?:[-\u2212])?(?:{SIGN})|(?:{SIGN}))*"
)
LONGEST_RUN = 200
NAME = re.compile(r"\s*(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?|[A-Za-z]\([^()]*\)|\([^()]*\))\s*")
TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=\d)")
PROSE = re.compile(
    r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|(?i:it|is|so|we|he|to|in|of|as|by|be|my|at|on|an|if|do|us|go)"
    r"(?![A-Za-z]))"
)
_NO_PROSE = (
    "sin cos tan cot sec csc log exp sqrt arcsin arccos arctan mod pmatrix bmatrix vmatrix "
    "matrix array infinity and abs cbrt mph pmod begin end text inf theta alpha beta gamma frac"
)
NO_PROSE = set(_NO_PROSE.split())


def is_prose(text: str) -> bool:
    """Whether it holds words that no formula has."""
    return any(word.lower() not in NO_PROSE for word in PROSE.findall(text))


def inside(formula: re.Match[str]) -> str:
    """What stands between a formula's delimiters."""
    return next(group for group in formula.groups() if group is not None).strip()


def last_number(text: str) -> str | None:
    """The last number of a text, with what belongs to it: a unit, or the formula it stands in."""
    found = None
    for found in AMOUNT.finditer(text):  # noqa: B007
        pass
    if found is None:
        return None
    for formula in FORMULA.finditer(text):
        if formula.start() < found.start() < formula.end() and not is_prose(inside(formula)):
            return _right_side(inside(formula))
    return _run_with(text, found) or found[0]


def _run_with(text: str, number: re.Match[str]) -> str | None:
    """The formula around a number where it is more than arithmetic: x+y=3, 2^10, 2x+1."""
    begin = max(text.rfind("\n", 0, number.start()) + 1, number.start() - LONGEST_RUN)
    end = text.find("\n", number.end())
    line = text[begin : number.end() + LONGEST_RUN if end < 0 else end]
    for run in RUN.finditer(line):
        if run.end() >= number.end() - begin and run.start() <= number.start() - begin:
            whole = _balanced(TIMES.sub("*", run[0]).strip())
            sums = re.search(r"[+*=<>≤≥]|\d[a-z]\s?-\s?\d", whole)
            variables = re.search(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", whole)
            if "=" in whole:
                side = _right_side(whole)
                return side if re.search(r"[A-Za-z^]", side) else None
            return whole if "^" in whole or (sums and variables) else None
    return None


def _right_side(formula: str) -> str:
    """What a computation or a name equals; an equation stays whole."""
    parts = re.split(r"(?<![<>\\!])=|\\approx", formula)
    first = TIMES.sub("*", parts[0])
    letters = re.search(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", first)
    if len(parts) > 1 and (NAME.fullmatch(first) or not letters):
        return parts[-1].strip()
    return formula


def _balanced(text: str) -> str:
    """Without brackets that have no partner, at its ends."""
    text = text.rstrip("({[").lstrip(")}]")
    for opening, closing in ("()", "[]", "{}"):
        while text.count(closing) > text.count(opening) and text.endswith(closing):
            text = text[:-1]
        while text.count(opening) > text.count(closing) and text.startswith(opening):
            text = text[1:]
    return text
