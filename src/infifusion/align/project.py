"""One source's beliefs, carried to the pivot's positions and vocabulary.

Axes: T pivot positions, U source positions, K kept entries. Everything is flat over the same
examples; nothing loops over positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import end_keys, keys, match
from infifusion.align.vocabulary import VocabularyMap
from infifusion.rows import add_up, keep_largest
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


def project(
    source: Positions, beliefs: Beliefs, pivot: Positions, mapping: VocabularyMap
) -> Projected:
    """Align by bytes, map the vocabulary, correct the gold path.

    A pivot position takes the source position that predicts from the same byte; where the source
    has none the row is empty (source_T = -1). Mapped probabilities that land on one pivot id add
    up; what cannot be mapped goes to the tail.

    Gold path: where the pivot's gold token g spans source tokens y_1..y_m that end on the same
    byte, P(g) = product of their gold probabilities. The mass that y_1 had under the map (on its
    pivot id h, if h is not g) becomes p(y_1) - P(g), so the total stays 1; if y_1 was outside the
    top-K, P(g) comes out of the tail. Spans that do not end together are left alone.
    Definition: InfiFusion METHOD, "Alignment" (ours; the paper's is not public to us).
    """
    source_T = match(keys(pivot.start_R, pivot.row_N1), keys(source.start_R, source.row_N1))
    aligned_T = source_T >= 0
    here_T = np.where(aligned_T, source_T, 0)

    ids_TK = beliefs.ids_UK[here_T]
    prob_TK = np.exp(beliefs.logprob_UK[here_T].astype(np.float32))
    prob_TK[~aligned_T] = 0
    mapped_TK = np.where(prob_TK > 0, mapping.pivot_V[ids_TK], -1)
    unmapped = float(prob_TK[(mapped_TK < 0)].sum())

    columns = _gold_path_columns(source, beliefs, pivot, mapping, source_T, ids_TK, prob_TK)
    from_T, to_T, path_T = columns
    corrected_T = to_T >= 0
    all_ids = np.concatenate([mapped_TK, from_T[:, None], to_T[:, None]], axis=1)
    all_prob = np.concatenate([prob_TK, -path_T[:, None], path_T[:, None]], axis=1)
    ids_TK, prob_TK = add_up(all_ids, all_prob)
    # fp16 log-probabilities are rounded: a difference of equals may fall just below zero.
    prob_TK = np.maximum(prob_TK, 0)
    ids_TK, prob_TK = keep_largest(ids_TK, prob_TK, beliefs.ids_UK.shape[1] + 1)
    total_T = prob_TK.sum(axis=1)
    # ... and their sum just above one.
    prob_TK /= np.maximum(total_T, 1)[:, None]
    tail_T = np.where(aligned_T, np.maximum(1 - total_T, 0), 0).astype(np.float32)
    return Projected(ids_TK, prob_TK, tail_T, source_T, corrected_T, unmapped)


def _gold_path_columns(
    source: Positions,
    beliefs: Beliefs,
    pivot: Positions,
    mapping: VocabularyMap,
    source_T: NDArray[np.int64],
    ids_TK: NDArray[np.int32],
    prob_TK: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Two more entries per row: take P(g) from id `from`, give it to id `to`; -1 for none.

    Returns from_T, to_T and P_T.
    """
    aligned_T = source_T >= 0
    first_T = np.where(aligned_T, source_T, 0)
    last_T = match(end_keys(pivot.start_R, pivot.row_N1), end_keys(source.start_R, source.row_N1))
    ends_together_T = aligned_T & (last_T >= first_T)
    total = np.concatenate([[0.0], np.cumsum(beliefs.gold_U, dtype=np.float64)])
    log_path_T = total[np.where(ends_together_T, last_T, first_T) + 1] - total[first_T]
    path_T = np.exp(log_path_T).astype(np.float32)

    first_gold_T = source.gold_R[first_T]
    stands_for_T = mapping.pivot_V[first_gold_T]
    corrects_T = ends_together_T & (stands_for_T != pivot.gold_R)
    kept_T = ((ids_TK == first_gold_T[:, None]) & (prob_TK > 0)).any(axis=1)
    to_T = np.where(corrects_T, pivot.gold_R, -1).astype(np.int32)
    from_T = np.where(corrects_T & kept_T, stands_for_T, -1).astype(np.int32)
    return from_T, to_T, np.where(corrects_T, path_T, 0).astype(np.float32)
