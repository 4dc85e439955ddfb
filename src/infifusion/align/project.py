"""One source's beliefs, carried to the pivot's positions and vocabulary.

Axes: T pivot positions, U source positions, K kept entries. Everything is flat over the same
examples; the loop over positions is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import end_keys, keys, match
from infifusion.align.vocabulary import VocabularyMap
from infifusion.rows import compiled, keep_row, put
from infifusion.types import Beliefs


@dataclass(frozen=True)
class Positions:
    """The response positions of some examples under one tokenizer (see types.Rendered).

    start_R: int32, start bytes; row_N1: int64, which rows belong to which example; gold_R: int32,
    the token that is there.
    """

    start_R: NDArray[np.int32]
    row_N1: NDArray[np.int64]
    gold_R: NDArray[np.int32]


@dataclass(frozen=True)
class Projected:
    """A source at the pivot's positions; fields as in types.Aligned without the source axis.

    source_T: int64, index of the aligned source position or -1. gold_path_T: bool, positions
    where the chain rule gave the gold token its probability. unmapped: probability, summed over
    aligned positions, that the map could not place.
    """

    ids_TK: NDArray[np.int32]
    prob_TK: NDArray[np.float32]
    tail_T: NDArray[np.float32]
    source_T: NDArray[np.int64]
    gold_path_T: NDArray[np.bool_]
    unmapped: float


Pair = Callable[[Positions, Positions], NDArray[np.int64]]
"""(source, pivot) -> for each pivot position the source position it is aligned with, or -1: [T]."""


def by_bytes(source: Positions, pivot: Positions) -> NDArray[np.int64]:
    """A pivot position takes the source position that predicts from the same byte; -1 where the
    source has none: [T]."""
    return match(keys(pivot.start_R, pivot.row_N1), keys(source.start_R, source.row_N1))


def project(
    source: Positions,
    beliefs: Beliefs,
    pivot: Positions,
    mapping: VocabularyMap,
    *,
    pair: Pair = by_bytes,
    gold_path: bool = True,
) -> Projected:
    """Align the positions, map the vocabulary, correct the gold path.

    A position that `pair` aligns with nothing is empty (source_T = -1). Mapped probabilities that
    land on one pivot id add up; what cannot be mapped goes to the tail.

    Gold path, unless switched off: where the pivot's gold token g spans source tokens y_1..y_m
    that end on the same byte, P(g) = product of their gold probabilities. The mass that y_1 had
    under the map (on its pivot id h, if h is not g) becomes p(y_1) - P(g), so the total stays 1; if
    y_1 was outside the top-K, P(g) comes out of the tail. Spans that do not end together, or
    (aligned otherwise than by bytes) do not begin together, are left alone.
    Definition: InfiFusion METHOD, "Alignment" (ours; the paper's is not public to us).
    """
    source_T = pair(source, pivot)
    last_T = _path_ends(source, pivot, source_T) if gold_path else np.full_like(source_T, -1)
    before_U1 = np.concatenate([[0.0], np.cumsum(beliefs.gold_U, dtype=np.float64)])
    positions, width = len(source_T), beliefs.ids_UK.shape[1] + 1
    ids_TK = np.empty((positions, width), np.int32)
    prob_TK = np.empty((positions, width), np.float32)
    tail_T = np.zeros(positions, np.float32)
    gold_path_T = np.zeros(positions, np.bool_)
    unmapped = _project(
        source_T,
        last_T,
        beliefs.ids_UK,
        np.exp(beliefs.logprob_UK.astype(np.float32)),
        before_U1,
        source.gold_R,
        pivot.gold_R,
        mapping.pivot_V,
        ids_TK,
        prob_TK,
        tail_T,
        gold_path_T,
    )
    return Projected(ids_TK, prob_TK, tail_T, source_T, gold_path_T, float(unmapped))


def _path_ends(
    source: Positions, pivot: Positions, source_T: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The source position whose token ends with the pivot's gold token, -1 where there is none or
    where the aligned positions do not begin on the same byte: [T]."""
    last_T = match(end_keys(pivot.start_R, pivot.row_N1), end_keys(source.start_R, source.row_N1))
    key_T, key_U = keys(pivot.start_R, pivot.row_N1), keys(source.start_R, source.row_N1)
    return np.where(key_U[source_T] == key_T, last_T, -1)


@compiled
def _project(
    source_T,
    last_T,
    ids_UK,
    prob_UK,
    before_U1,
    source_gold_U,
    pivot_gold_T,
    pivot_V,
    ids_TK,
    prob_TK,
    tail_T,
    gold_path_T,
):
    """`project` position by position; before_U1: sum of the gold log-probabilities before each
    source position. Returns the probability that was not mapped."""
    entries = ids_UK.shape[1]
    row_ids, row = np.empty(entries + 3, np.int32), np.empty(entries + 3, np.float32)
    unmapped = 0.0
    for t in range(len(source_T)):
        u = source_T[t]
        used = 0
        if u >= 0:
            kept = False
            for k in range(entries):
                if prob_UK[u, k] > 0:
                    kept = kept or ids_UK[u, k] == source_gold_U[u]
                    token = pivot_V[ids_UK[u, k]]
                    if token >= 0:
                        used = put(row_ids, row, used, token, prob_UK[u, k])
                    else:
                        unmapped += prob_UK[u, k]
            stands_for = pivot_V[source_gold_U[u]]
            if last_T[t] >= u and stands_for != pivot_gold_T[t]:
                path = np.float32(np.exp(before_U1[last_T[t] + 1] - before_U1[u]))
                if kept and stands_for >= 0:
                    used = put(row_ids, row, used, stands_for, -path)
                used = put(row_ids, row, used, pivot_gold_T[t], path)
                gold_path_T[t] = True
            for j in range(used):
                # fp16 log-probabilities are rounded: a difference of equals may fall below zero.
                row[j] = max(row[j], np.float32(0))
        keep_row(row_ids, row, used, ids_TK[t], prob_TK[t])
        if u >= 0:
            total = np.float32(0)
            for k in range(entries + 1):
                total += prob_TK[t, k]
            if total > 1:  # ... and their sum rise above one
                for k in range(entries + 1):
                    prob_TK[t, k] /= total
            tail_T[t] = max(np.float32(1) - total, np.float32(0))
    return unmapped
