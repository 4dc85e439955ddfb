"""Whether two answers are the same: each is read in every sense it can have, and one must meet.

It is called in a process that can be stopped (evals/math_worker.py), since sympy may not end.
"""

from __future__ import annotations

from functools import lru_cache

from infifusion.evals.same_answer import (
    amounts,
    bases,
    colons,
    equations,
    groups,
    matrices,
    ranges,
    words,
)
from infifusion.evals.same_answer.cleaning import clean, squeezed
from infifusion.evals.same_answer.final_answer import SAID, bare

LONGEST = 4_000  # characters of an answer that is read; a longer one equals itself alone
DEEPEST = 3  # collections within collections

WITH_ITEMS = (groups.Group, matrices.Matrix)
RULES = (amounts, bases, colons, equations, groups, matrices, ranges, words)


def same_answer(gold: str, answer: str | None) -> bool:
    """Whether `answer` says what `gold` says; both as a data set or a model writes them.

    No answer, or an empty one, is never the same as another.
    """
    if answer is None or not gold.strip() or not answer.strip():
        return False
    one, other = bare(gold).strip(), bare(answer).strip()
    if max(len(one), len(other)) > LONGEST:
        return one == other
    one, other = _cleaned(one), _cleaned(other)
    return bool(one and other) and _same(one, other, 0)


def _cleaned(text: str) -> str:
    """In one spelling; a sentence in \\text{} is seen only then."""
    text = clean(text)
    return clean(bare(text)) if SAID.search(text) else text


def _same(gold: str, answer: str, depth: int) -> bool:
    if squeezed(gold) == squeezed(answer):
        return True
    if depth > DEEPEST:
        return False
    golds, answers = equations.approximations(gold), equations.approximations(answer)
    if len(golds) + len(answers) > 2:
        return any(_same(one, other, depth + 1) for one in golds for other in answers)
    return _meet(gold, answer, depth) or _without_names(gold, answer, depth)


def _without_names(gold: str, answer: str, depth: int) -> bool:
    """x = 3 is 3, and f(x) = 2x is y = 2x; x = 3 is not y = 3."""
    one, other = equations.named(gold), equations.named(answer)
    if one is None and other is None:
        return False
    if one is not None and other is not None and not one.fits(other):
        return False
    return _same(one.rest if one else gold, other.rest if other else answer, depth + 1)


def _meet(gold: str, answer: str, depth: int) -> bool:
    def again(left: str, right: str) -> bool:
        return _same(left, right, depth + 1)

    for one in _readings(gold):
        for other in _readings(answer):
            for mine, its in ((one, other), (other, one)):
                if isinstance(mine, WITH_ITEMS):
                    if mine.same(its, again):
                        return True
                elif mine.same(its):
                    return True
    return _single(gold, answer, again)


def _single(gold: str, answer: str, again: groups.Again) -> bool:
    """{5} is 5."""
    for one, other in ((gold, answer), (answer, gold)):
        for reading in _readings(one):
            if (
                isinstance(reading, groups.Group)
                and len(reading.items) == 1
                and again(
                    *((reading.items[0], other) if one is gold else (other, reading.items[0]))
                )
            ):
                return True
    return False


@lru_cache(maxsize=512)
def _readings(text: str) -> tuple:
    """All senses of a cleaned text."""
    return tuple(reading for rule in RULES for reading in rule.readings(text))
