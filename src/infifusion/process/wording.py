"""Names and counts as people read them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

SAYS_NOTHING = re.compile(r"^(model|adapter|final|output|merged|checkpoint(-\d+)?)$")
"""Last folders of a model's path that its name does not follow from."""
ENDING = "/model"


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 source, 2 sources, 1,319 items; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def short_names(paths: Iterable[str], *, whole: bool = False) -> dict[str, str]:
    """A name for every path: its last folder, with as many before it as tell it from the others.

    A last folder that says nothing (`model` of a run, `checkpoint-500`) is never alone; `model` is
    left out, unless `whole`. MODEL+ADAPTER is named part by part.
    """
    known = list(dict.fromkeys(paths))
    depth = dict.fromkeys(known, 1)
    while True:
        names = {path: _tail(path, depth[path]) for path in known}
        times = Counter(names.values())
        deeper = [p for p in known if times[names[p]] > 1 and _tail(p, depth[p] + 1) != names[p]]
        if not deeper:
            break
        for path in deeper:
            depth[path] += 1
    shown = {p: n if whole else _without_ending(n) for p, n in names.items()}
    return shown if len(set(shown.values())) == len(set(names.values())) else names


def _tail(path: str, depth: int) -> str:
    return "+".join(_last(PurePath(part).parts, depth) for part in path.split("+"))


def _last(parts: tuple[str, ...], depth: int) -> str:
    start = len(parts) - 1
    while start > 0 and SAYS_NOTHING.match(parts[start]):
        start -= 1
    kept = [part for part in parts[max(0, start - depth + 1) :] if part not in ("/", "..")]
    return "/".join(kept)


def _without_ending(name: str) -> str:
    return "+".join(part.removesuffix(ENDING) for part in name.split("+"))
