"""Two ways to combine S aligned distributions with given weights: mix them, or mix their logits.

Axes: S sources, T pivot positions, K entries per source, J kept entries of the target.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infifusion.rows import add, compiled, keep_largest, keep_row
from infifusion.types import Aligned, Target

# A source says nothing about single ids outside its top-K; their share of its tail is unknown.
# The tail is taken to be spread over this many ids, a typical vocabulary, in logit-level rules.
TAIL_IDS = 32_000
LOWEST_LOG = -30.0
MAJORITY = 0.5
"""Share of the weight that must be aligned for a position to be taught (`only_aligned`)."""


def normalise(score_ST: NDArray[np.floating], aligned_ST: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Softmax of log-scores over the aligned sources; 0 where no source is aligned."""
    masked_ST = np.where(aligned_ST, score_ST, -np.inf)
    highest_T = masked_ST.max(axis=0, initial=-np.inf)
    some_T = np.isfinite(highest_T)
    weight_ST = np.exp(masked_ST - np.where(some_T, highest_T, 0))
    total_T = weight_ST.sum(axis=0)
    return (weight_ST / np.where(total_T > 0, total_T, 1)).astype(np.float32)


def choose(score_ST: NDArray[np.floating], aligned_ST: NDArray[np.bool_]) -> NDArray[np.float32]:
    """All weight on the aligned source with the highest score; the first one wins a tie."""
    masked_ST = np.where(aligned_ST, score_ST, -np.inf)
    best_T = masked_ST.argmax(axis=0)
    weight_ST = np.zeros(score_ST.shape, dtype=np.float32)
    some_T = aligned_ST.any(axis=0)
    weight_ST[best_T[some_T], np.flatnonzero(some_T)] = 1
    return weight_ST


def only_aligned(
    weight_ST: NDArray[np.float32], aligned_ST: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Weights given to whole responses, at the positions where their sources are aligned.

    Where the aligned sources hold at least MAJORITY of the weight they share all of it; elsewhere
    nobody teaches. Without that, a source of no weight would speak alone wherever the chosen one
    has no token boundary.
    """
    weight_ST = np.where(aligned_ST, weight_ST, 0).astype(np.float32)
    total_T = weight_ST.sum(axis=0)
    enough_T = total_T >= MAJORITY
    return weight_ST * (enough_T / np.where(enough_T, total_T, 1)).astype(np.float32)


def mix(aligned: Aligned, weight_ST: NDArray[np.float32], *, keep: int) -> Target:
    """P = sum_s w_s P_s, its `keep` largest entries; everything else goes to the tail.

    weight_ST must be 0 where a source is not aligned; columns sum to 1, or to 0 where the target
    is empty.
    """
    positions = weight_ST.shape[1]
    ids_TK = np.empty((positions, keep), np.int32)
    prob_TK = np.empty((positions, keep), np.float32)
    _mix(aligned.ids_STK, aligned.prob_STK, weight_ST, ids_TK, prob_TK)
    return Target(ids_TK, prob_TK, weight_ST, _mix_zscores(aligned, weight_ST))


@compiled
def _mix(ids_STK, prob_STK, weight_ST, ids_TJ, prob_TJ):
    sources, positions, width = ids_STK.shape
    row_ids = np.empty(sources * width, np.int32)
    row = np.empty(sources * width, np.float32)
    for t in range(positions):
        used = 0
        for s in range(sources):
            before, weight = used, weight_ST[s, t]  # no id stands twice in a source's own row
            if weight > 0:
                for k in range(width):
                    part = prob_STK[s, t, k] * weight
                    if part > 0:
                        used = add(row_ids, row, used, ids_STK[s, t, k], part, before)
        keep_row(row_ids, row, used, ids_TJ[t], prob_TJ[t])


def mix_logits(
    aligned: Aligned, weight_ST: NDArray[np.float32], *, keep: int, largest: bool = False
) -> Target:
    """Combine log-probabilities, then renormalise over the union of kept ids and the tail.

        log P(i) = sum_s w_s log P_s(i) + const        (largest=False: the weighted mean)
        log P(i) = max over s with w_s > 0 of log P_s(i) + const             (largest=True)

    Log-probabilities stand for logits: a softmax ignores a constant per source, so raw logits of
    two models are not on one scale. An id outside a source's kept entries has the source's tail
    spread over TAIL_IDS ids; logarithms are floored at LOWEST_LOG nats.
    """
    sources, positions, width = aligned.ids_STK.shape
    flat_ids_TJ = aligned.ids_STK.transpose(1, 0, 2).reshape(positions, sources * width)
    used_TJ = (weight_ST.T > 0).repeat(width, axis=1)
    ids_TJ = _union(np.where(used_TJ, flat_ids_TJ, -1))
    log_STJ = np.stack(
        [
            _log_of(ids_TJ, aligned.ids_STK[s], aligned.prob_STK[s], aligned.tail_ST[s])
            for s in range(sources)
        ]
    )
    log_tail_ST = np.log(np.maximum(aligned.tail_ST, np.exp(LOWEST_LOG)))
    log_STJ = np.concatenate([log_STJ, log_tail_ST[:, :, None]], axis=2)
    if largest:
        taking_part = weight_ST[:, :, None] > 0
        score_TJ = np.where(taking_part, log_STJ, -np.inf).max(axis=0, initial=-np.inf)
    else:
        score_TJ = (weight_ST[:, :, None] * log_STJ).sum(axis=0)
    taught_T = weight_ST.sum(axis=0) > 0
    kept_TJ = np.concatenate([ids_TJ >= 0, np.ones((positions, 1), dtype=bool)], axis=1)
    score_TJ = np.where(kept_TJ & taught_T[:, None], score_TJ, -np.inf)
    highest_T = np.where(taught_T, score_TJ.max(axis=1, initial=-np.inf), 0)
    prob_TJ = np.exp(score_TJ - highest_T[:, None])
    prob_TJ /= np.maximum(prob_TJ.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    ids_TK, prob_TK = keep_largest(ids_TJ, prob_TJ[:, :-1].astype(np.float32), keep)
    return Target(ids_TK, prob_TK, weight_ST, _mix_zscores(aligned, weight_ST))


def equal_weights(aligned_ST: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 / (number of aligned sources) each; 0 where none is."""
    return normalise(np.zeros(aligned_ST.shape), aligned_ST)


def _mix_zscores(aligned: Aligned, weight_ST: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Rank by rank, the weighted mean of the sources' standardised logits: [T, K]; None where they
    were not carried over."""
    if aligned.zscore_STK is None:
        return None
    mixed_TK = np.einsum("stk,st->tk", aligned.zscore_STK, weight_ST)
    return mixed_TK.astype(np.float32, copy=False)


def _union(ids_TJ: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each id of a row once, ascending; then -1 in unused places: [T, J]."""
    last = np.iinfo(np.int32).max
    ids_TJ = np.sort(np.where(ids_TJ < 0, last, ids_TJ), axis=1)
    again_TJ = ids_TJ[:, 1:] == ids_TJ[:, :-1]
    ids_TJ[:, 1:][again_TJ] = last
    ids_TJ.sort(axis=1)
    return np.where(ids_TJ == last, -1, ids_TJ)


def _log_of(
    wanted_TJ: NDArray[np.int32],
    ids_TK: NDArray[np.int32],
    prob_TK: NDArray[np.float32],
    tail_T: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Log-probability that one source's rows give to each wanted id: [T, J]."""
    equal_TJK = wanted_TJ[:, :, None] == ids_TK[:, None, :]
    prob_TJ = (equal_TJK * prob_TK[:, None, :]).sum(axis=2, dtype=np.float64)
    spread_T = tail_T / TAIL_IDS
    prob_TJ = np.where(equal_TJK.any(axis=2), prob_TJ, spread_T[:, None])
    return np.log(np.maximum(prob_TJ, np.exp(LOWEST_LOG)))
