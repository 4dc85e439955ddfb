"""Three synthetic domains with checkable answers, in the style of GSM8K, MATH and HumanEval.

A problem's *key* is its kind and all its numbers or operations, without names, objects and variable
letters. Keys are split by hash into training, validation and test, so no test problem differs from
a training problem only in its surface. *Drills* are the single steps that problems are made of
(`Compute 24 + 3.`): models may go to school with them, and they are never asked in a test.
"""

from __future__ import annotations

import hashlib
import operator
import random
from dataclasses import dataclass
from itertools import product
from typing import Literal

Split = Literal["train", "validation", "test"]

NAMES = ("Ben", "Ana", "Tom", "Eva", "Max", "Lea", "Sam", "Ida")
OBJECTS = ("coins", "books", "cards", "pens", "cups", "nuts", "keys", "hats")
LETTERS = ("x", "y", "t", "n")
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass(frozen=True)
class Problem:
    """One problem. answer is what the checker compares: a number, a term, or code."""

    domain: str
    key: str
    prompt: str
    response: str
    answer: str


def split_of(key: str) -> Split:
    """By md5 of the key: a fifth test, a tenth validation, the rest training."""
    kind = int(hashlib.md5(key.encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "test", 2: "validation"}.get(kind, "train")  # type: ignore[return-value]


def problems(
    domain: str, split: Split, count: int, *, seed: int, noise: float = 0.0
) -> list[Problem]:
    """`count` problems of one split, by seed; keys are used evenly before they repeat.

    noise is the share whose solution has one number or operation changed and goes on consistently:
    a wrong label, as real data has.
    """
    keys = [key for key in KEYS[domain]() if split_of(_text_of(domain, key)) == split]
    return _problems(domain, keys, split, count, seed=seed, noise=noise)


def drills(domain: str, count: int, *, seed: int) -> list[Problem]:
    """`count` single steps of a domain, by seed; code has none."""
    keys = DRILLS[domain]() if domain in DRILLS else []
    return _problems(domain, keys, "drill", count if keys else 0, seed=seed, noise=0.0)


def _problems(
    domain: str, keys: list[tuple], split: str, count: int, *, seed: int, noise: float
) -> list[Problem]:
    draw = random.Random(f"{seed}:{domain}:{split}")
    wrong = random.Random(f"{seed}:{domain}:{split}:noise")
    order: list[tuple] = []
    made = []
    while len(made) < count:
        if not order:
            order = draw.sample(keys, len(keys))
        key = order.pop()
        other = _wrong_key(domain, key, wrong) if wrong.random() < noise else key
        made.append(MAKE[domain](key, other, _text_of(domain, key), draw))
    return made


def _text_of(domain: str, key: tuple) -> str:
    return f"{domain}:" + ":".join(str(part) for part in key)


def _wrong_key(domain: str, key: tuple, draw: random.Random) -> tuple:
    """The same kind of problem with one part changed: what a wrong solution solves."""
    same_kind = [k for k in KEYS[domain]() if k[0] == key[0] and len(k) == len(key)]
    near = [k for k in same_kind if sum(a != b for a, b in zip(k, key, strict=True)) == 1]
    return draw.choice(near)


def _steps(
    start: int, steps: list[tuple[str, int]], *, equals: str, between: str
) -> tuple[str, int]:
    """A calculation written out, one (sign, number) after the other, and its result."""
    written = []
    for sign, number in steps:
        result = SIGNS[sign.strip()](start, number)
        written.append(f"{start}{sign}{number}{equals}{result}")
        start = result
    return between.join(written), start


# word: two steps of arithmetic in a little story -------------------------------------------------

STORIES = {
    "buy": (
        "{name} has {a} {thing}. {name} buys {b} more and gives away {c}. "
        "How many {thing} are left?",
        "+-",
    ),
    "days": (
        "{name} gets {a} {thing} today, {b} the next day and {c} after that. "
        "How many {thing} in all?",
        "++",
    ),
    "boxes": (
        "{name} has {a} boxes of {b} {thing} and finds {c} more. How many {thing} are there?",
        "*+",
    ),
    "bags": (
        "{name} fills {a} bags with {b} {thing} each and then loses {c}. "
        "How many {thing} are left?",
        "*-",
    ),
    "more": ("{name} has {a} {thing} and finds {b} more. How many {thing} are there?", "+"),
    "fewer": ("{name} has {a} {thing} and loses {b}. How many {thing} are left?", "-"),
    "rows": ("{name} has {a} boxes of {b} {thing}. How many {thing} are there?", "*"),
}
"""Kind -> the story, and the signs between a, b and c. The last three are drills."""


def _word_keys() -> list[tuple]:
    keys: list[tuple] = []
    for a, b, c in product(range(1, 8), repeat=3):
        if c <= a + b:
            keys.append(("buy", a, b, c))
        keys.append(("days", a, b, c))
        if max(a, b) <= 5:
            keys.append(("boxes", a, b, c))
            if c < a * b:
                keys.append(("bags", a, b, c))
    return keys


def _word_drills() -> list[tuple]:
    pairs = list(product(range(1, 26), range(1, 8)))
    keys: list[tuple] = [("more", a, b, 0) for a, b in pairs]
    keys += [("fewer", a, b, 0) for a, b in pairs if b <= a]
    return keys + [("rows", a, b, 0) for a, b in product(range(1, 6), repeat=2)] * 4


def _word(key: tuple, solved: tuple, text: str, draw: random.Random) -> Problem:
    name, thing = draw.choice(NAMES), draw.choice(OBJECTS)
    kind, a, b, c = key
    story, signs = STORIES[kind]
    prompt = story.format(name=name, thing=thing, a=a, b=b, c=c) + "\n"
    _, first, *others = solved
    steps = list(zip(signs, others, strict=False))
    written, total = _steps(first, steps, equals="=", between=". ")
    return Problem("word", text, prompt, f"{written}. #### {total}", str(total))


# sym: small algebra ------------------------------------------------------------------------------


def _sym_keys() -> list[tuple]:
    keys: list[tuple] = []
    for a, b, x, c in product(range(2, 6), range(1, 7), range(1, 6), range(1, 7)):
        if c < a * x + b:
            keys += [("solve", a, b, x, c), ("value", a, b, x, c)]
    for a, b, c, d in product(range(1, 7), repeat=4):
        if c < a + b:
            keys.append(("simplify", a, b, c, d))
    return keys


def _sym_drills() -> list[tuple]:
    pairs = list(product(range(1, 33), range(1, 8)))
    keys: list[tuple] = [("add", a, b, 0, 0) for a, b in pairs if a <= 25]
    keys += [("subtract", a, b, 0, 0) for a, b in pairs if b < a]
    facts = list(product(range(2, 6), range(1, 6)))
    return keys + [(kind, a, b, 0, 0) for kind in ("times", "divide") for a, b in facts] * 4


def _sym(key: tuple, solved: tuple, text: str, draw: random.Random) -> Problem:
    letter = draw.choice(LETTERS)
    kind, a, b, c, d = key
    prompt = {
        "solve": f"Find {letter} such that {a}{letter} + {b} - {d} = {a * c + b - d}.\n",
        "value": f"Evaluate {a}{letter} + {b} - {d} at {letter} = {c}.\n",
        "simplify": f"Simplify {a}{letter} + {b}{letter} - {c}{letter} + {d}{letter}.\n",
        "add": f"Compute {a} + {b}.\n",
        "subtract": f"Compute {a} - {b}.\n",
        "times": f"Compute {a}*{b}.\n",
        "divide": f"Compute {a * b}/{a}.\n",
    }[kind]
    _, a, b, c, d = solved
    start, steps = {
        "solve": (a * c + b - d, [(" + ", d), (" - ", b), ("/", a)]),
        "value": (a, [("*", c), (" + ", b), (" - ", d)]),
        "simplify": (a, [(" + ", b), (" - ", c), (" + ", d)]),
        "add": (a, [(" + ", b)]),
        "subtract": (a, [(" - ", b)]),
        "times": (a, [("*", b)]),
        "divide": (a * b, [("/", a)]),
    }[kind]
    written, result = _steps(start, steps, equals=" = ", between=", ")
    answer = f"{result}{letter}" if kind == "simplify" else str(result)
    return Problem("sym", text, prompt, f"{written}. \\boxed{{{answer}}}", answer)


# code: the body of a one-line function -----------------------------------------------------------

OPERATIONS = {
    "add": ("add {n}", "+ {n}"),
    "subtract": ("subtract {n}", "- {n}"),
    "times": ("multiply by {n}", "* {n}"),
    "floor": ("floor divide by {n}", "// {n}"),
    "mod": ("take the remainder modulo {n}", "% {n}"),
}
MAPS = {
    "double": ("doubled", "v * 2"),
    "square": ("squared", "v * v"),
    "next": ("increased by 1", "v + 1"),
    "negative": ("negated", "-v"),
    "same": ("unchanged", "v"),
}
FILTERS = {
    "even": ("even", "v % 2 == 0"),
    "odd": ("odd", "v % 2 == 1"),
    "positive": ("positive", "v > 0"),
    "small": ("below 10", "v < 10"),
    "large": ("above 3", "v > 3"),
}
FOLDS = {
    "sum": ("the sum of", "sum([{inner}])"),
    "count": ("the number of", "len([{inner}])"),
    "sorted": ("the sorted list of", "sorted([{inner}])"),
    "list": ("the list of", "[{inner}]"),
}


def _code_keys() -> list[tuple]:
    keys: list[tuple] = []
    for first, second in product(OPERATIONS, repeat=2):
        if first != second:
            keys += [("chain", first, second, n, m) for n, m in product(range(2, 10), repeat=2)]
    keys += [("fold", *parts) for parts in product(FOLDS, MAPS, FILTERS)] * 6
    return keys


def _code(key: tuple, solved: tuple, text: str, draw: random.Random) -> Problem:
    argument = draw.choice(("k", "m", "a", "z"))
    if key[0] == "chain":
        _, first, second, n, m = key
        ask = (
            f"Take {argument}, {OPERATIONS[first][0].format(n=n)}, "
            f"then {OPERATIONS[second][0].format(n=m)}."
        )
        body = _chain_body(argument, *solved[1:])
    else:
        _, fold, change, keep = key
        ask = (
            f"Return {FOLDS[fold][0]} the {FILTERS[keep][0]} values of {argument}, "
            f"{MAPS[change][0]}."
        )
        _, fold, change, keep = solved
        inner = f"{MAPS[change][1]} for v in {argument} if {FILTERS[keep][1]}"
        body = FOLDS[fold][1].format(inner=inner)
    prompt = f'def f({argument}):\n    """{ask}"""\n    return'
    return Problem("code", text, prompt, f" {body}", body)


def _chain_body(argument: str, first: str, second: str, n: int, m: int) -> str:
    """The expression; the first operation in brackets where precedence would change it."""
    inner = f"{argument} {OPERATIONS[first][1].format(n=n)}"
    if first in ("add", "subtract") and second in ("times", "floor", "mod"):
        inner = f"({inner})"
    return f"{inner} {OPERATIONS[second][1].format(n=m)}"


def code_test(problem: Problem) -> str:
    """Python that raises unless the function `f` gives the reference's values and types."""
    argument = problem.prompt[len("def f(") : problem.prompt.index(")")]
    inputs = "range(0, 60, 7)" if ":chain:" in problem.key else "_lists"
    return (
        "_lists = [[], [1, 2, 3, 4, 5], [-3, 0, 12, 7], [10, 9, -2, 4, 4], [3]]\n"
        f"_reference = lambda {argument}: {problem.answer}\n"
        f"for _value in {inputs}:\n"
        "    _found, _wanted = f(_value), _reference(_value)\n"
        "    assert type(_found) is type(_wanted) and _found == _wanted\n"
    )


KEYS = {"word": _word_keys, "sym": _sym_keys, "code": _code_keys}
DRILLS = {"word": _word_drills, "sym": _sym_drills}
MAKE = {"word": _word, "sym": _sym, "code": _code}
DOMAINS = tuple(KEYS)
