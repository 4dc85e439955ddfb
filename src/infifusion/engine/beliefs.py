"""A teacher pass through a server: the rows of a cache, from what a server says of each token.

A server gives the top and no more: log-sum-exp, mean and deviation of the logits are unknown (NaN
in the rows), the entropy is estimated from the top and the mass of the rest (engine.tail).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.engine.engine import Ask, Remote
from infifusion.engine.parse import Scored
from infifusion.engine.tail import entropies
from infifusion.types import Beliefs, Rendered


@dataclass
class Bounds:
    """Sums over positions: of the estimated entropy and of its bounds, in nats."""

    positions: int = 0
    estimate: float = 0.0
    least: float = 0.0
    most: float = 0.0

    def as_json(self) -> dict[str, float]:
        """For a receipt."""
        return dict(vars(self))


@dataclass
class _Rows:
    """The rows of some examples that fill up as answers come."""

    begin: int
    end: int
    beliefs: Beliefs
    missing: int
    bounds: Bounds = field(default_factory=Bounds)


def believed(
    remote: Remote,
    rendered: Rendered,
    ranges: Sequence[tuple[int, int]],
    *,
    top_k: int,
    names: Sequence[str],
    advance: Callable[[int], object] = lambda _: None,
    exact: bool = False,
) -> Iterator[tuple[int, Beliefs, Bounds]]:
    """(number of the range, what the model believes of examples [begin, end), sums of entropies),
    each when its last answer has come; names: of all examples. exact: as in forward.believe.

    Rows are those of a pass in this process (teacher.forward): row u predicts response token u.
    """
    open_ranges: dict[int, _Rows] = {}

    def asked() -> Iterator[Ask]:
        for number, (begin, end) in enumerate(ranges):
            rows = int(rendered.row_N1[end] - rendered.row_N1[begin])
            open_ranges[number] = _Rows(begin, end, _empty(rows, top_k, exact), end - begin)
            for example in range(begin, end):
                low, high = rendered.offset_N1[example], rendered.offset_N1[example + 1]
                ids = rendered.ids_L[low:high].tolist()
                owner[example] = number
                yield Ask(example, ids, int(rendered.first_N[example]), f"example {names[example]}")

    owner: dict[int, int] = {}
    for one, found in remote.scores(asked()):
        number = owner.pop(one.number)
        part = open_ranges[number]
        first = int(rendered.row_N1[one.number] - rendered.row_N1[part.begin])
        _put(part, first, found, remote.vocabulary, top_k)
        advance(len(one.ids))
        part.missing -= 1
        if part.missing == 0:
            del open_ranges[number]
            yield number, part.beliefs, part.bounds


def gold_log_probabilities(
    remote: Remote,
    rendered: Rendered,
    begin: int,
    end: int,
    *,
    names: Sequence[str],
    advance: Callable[[int], object] = lambda _: None,
) -> NDArray[np.float32]:
    """Log-probabilities of the response tokens of examples [begin, end), end to end."""
    out = np.zeros(int(rendered.row_N1[end] - rendered.row_N1[begin]), np.float32)

    def asked() -> Iterator[Ask]:
        for example in range(begin, end):
            low, high = rendered.offset_N1[example], rendered.offset_N1[example + 1]
            ids = rendered.ids_L[low:high].tolist()
            yield Ask(example, ids, int(rendered.first_N[example]), f"example {names[example]}")

    for one, found in remote.scores(asked(), entries=0):
        first = int(rendered.row_N1[one.number] - rendered.row_N1[begin])
        out[first : first + len(found.gold_R)] = found.gold_R
        advance(len(one.ids))
    return out


def _put(part: _Rows, first: int, found: Scored, vocabulary: int, top_k: int) -> None:
    estimate_R, least_R, most_R = entropies(found.logprob_RK, vocabulary)
    rows = slice(first, first + len(found.gold_R))
    out = part.beliefs
    out.ids_UK[rows] = found.ids_RK[:, :top_k]
    out.logprob_UK[rows] = found.logprob_RK[:, :top_k]
    out.gold_U[rows] = found.gold_R
    out.entropy_U[rows] = estimate_R
    part.bounds.positions += len(estimate_R)
    part.bounds.estimate += float(estimate_R.sum(dtype=np.float64))
    part.bounds.least += float(least_R.sum(dtype=np.float64))
    part.bounds.most += float(most_R.sum(dtype=np.float64))


def _empty(rows: int, top_k: int, exact: bool) -> Beliefs:
    unknown = [np.full(rows, np.nan, np.float32) for _ in range(3)]
    logprob_UK: Any = np.zeros((rows, top_k), np.float32 if exact else np.float16)
    return Beliefs(
        np.zeros((rows, top_k), np.int32),
        logprob_UK,
        np.zeros(rows, np.float32),
        np.zeros(rows, np.float32),
        *unknown,
    )
