"""Several answers: sets, tuples, lists, and what `\\pm` stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from infifusion.evals.same_answer.amounts import THOUSANDS
from infifusion.evals.same_answer.splitting import AND, inside, is_one, split

Again = Callable[[str, str], bool]
MOST_ITEMS = 60
NAMED = re.compile(r"(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*=\s*([^=]+)")
SIGNED = re.compile(r"\\(pm|mp)(?![A-Za-z])")
BARE, TUPLE, SET, LIST = "", "(", "{", "["


@dataclass(frozen=True)
class Group:
    """kind: (ordered), {unordered}, [a list in either sense], or a row without brackets, which a
    data set writes for all solutions, in any order."""

    kind: str
    items: tuple[str, ...]

    def same(self, other: object, again: Again) -> bool:
        """The same items, each as often; in the same order where one of the two has an order."""
        if not isinstance(other, Group) or len(self.items) != len(other.items):
            return False
        if not self.items:
            return True
        kinds = {self.kind, other.kind}
        if kinds == {TUPLE, SET} or kinds == {LIST, SET}:
            return False
        if LIST in kinds and len(kinds) == 2 and len(self.items) == 2:
            return False  # [0,1] is an interval
        if TUPLE in kinds or kinds == {LIST}:
            return all(again(*pair) for pair in zip(self.items, other.items, strict=True))
        left = list(other.items)
        for item in self.items:
            place = next((at for at, one in enumerate(left) if again(item, one)), None)
            if place is None:
                return False
            del left[place]
        return True


def readings(text: str) -> Iterator[Group]:
    """The collections that a cleaned text can be; `1,200` can be two numbers."""
    if pair := inside(text):
        opening, between, closing = pair
        kind = {"(": TUPLE, "\\{": SET, "[": LIST, "\\langle": TUPLE}.get(opening)
        matched = (opening, closing) in (("(", ")"), ("\\{", "\\}"), ("[", "]"))
        if kind is not None and (matched or (kind == TUPLE and closing == "\\rangle")):
            yield from _of_items(kind, between)
    yield from _of_items(BARE, text)


def _of_items(kind: str, text: str) -> Iterator[Group]:
    if kind == SET and not text:
        yield Group(SET, ())
        return
    together = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    for version in dict.fromkeys([together, text] if kind == BARE else [text]):
        cut = split(AND.sub(" ; ", version), ",;")
        if not all(cut) or len(cut) > MOST_ITEMS:
            continue
        if len(cut) > 1 and any(re.fullmatch(r"0\d+", part) for part in cut):
            continue  # 10,080 is one number
        items = [one for item in cut for one in plus_and_minus(item)]
        if len(items) > 1 or kind == SET:
            yield _named(kind, items)


def plus_and_minus(text: str) -> list[str]:
    """Both answers that `\\pm` stands for; the text itself where there is none."""
    if not SIGNED.search(text) or not is_one(text):
        return [text]
    upper = SIGNED.sub(lambda found: "+" if found[1] == "pm" else "-", text)
    lower = SIGNED.sub(lambda found: "-" if found[1] == "pm" else "+", text)
    return [re.sub(r"(\A|=|\()\s*\+\s*", r"\1 ", one).strip() for one in (upper, lower)]


def _named(kind: str, items: list[str]) -> Group:
    """x=1, y=2 is (1, 2), by the order of the names; x=1, x=2 and x=1, 2 are 1, 2."""
    found = [NAMED.fullmatch(item) for item in items]
    names = [one[1] if one else "" for one in found]
    values = [one[2].strip() if one else item for one, item in zip(found, items, strict=True)]
    if kind == BARE and all(names) and len(set(names)) == len(names):
        return Group(TUPLE, tuple(value for _, value in sorted(zip(names, values, strict=True))))
    if names[0] and set(names) <= {names[0], ""}:
        return Group(kind, tuple(values))
    return Group(kind, tuple(items))
