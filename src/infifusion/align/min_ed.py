"""The alignment of FuseLLM by smallest edit distance (MinED), kept as a baseline.

FuseLLM, arXiv 2401.10491 v2, section 3.2 and its public code: dynamic time warping pairs the tokens
of two tokenizations by the edit distance of their texts; where two tokens are paired, the source's
next distribution becomes the pivot's, its ids mapped to the pivot token of the same text, else of
the smallest edit distance (`edit_distance.nearest_tokens`). Its authors' code has defects that are
not repeated here; what differs:

* A pair teaches where it is one to one (neither token is in another pair) and the texts are equal
  or the source token is mapped to the pivot's. FuseLLM asks for the second, and for the first on
  the pivot's side alone.
* Everywhere else FuseLLM puts a one-hot distribution on the token that is there, the current one in
  place of the next, whose entropy of 0 wins any weighting by certainty. Here the position is **not
  aligned** (weight 0; with no source aligned it trains on the gold token alone, which is the next
  one): our fix.
* Token texts are bytes as they lie in the response, blanks included, and not strings without their
  blank marker; what several source ids give to one pivot id adds up.

Axes: T pivot positions, U source positions, R positions of either, N examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infifusion.align.byte_spans import BLANK, TokenTable
from infifusion.align.edit_distance import FAR, clear, distance, mark
from infifusion.align.project import Positions
from infifusion.align.vocabulary import VocabularyMap
from infifusion.rows import compiled

BOTH, SOURCE_ALONE, PIVOT_ALONE = 0, 1, 2


class Texts(NamedTuple):
    """The bytes of the token at each of R positions: flat[begin_R[r] : end_R[r]]."""

    flat: NDArray[np.uint8]
    begin_R: NDArray[np.int64]
    end_R: NDArray[np.int64]


def pair_by_edit_distance(
    source: Positions,
    pivot: Positions,
    *,
    source_table: TokenTable,
    pivot_table: TokenTable,
    mapping: VocabularyMap,
) -> NDArray[np.int64]:
    """For each pivot position the source position that teaches it, or -1: [T].

    A position is named by the token it predicts; it is paired by the token before it, after which
    both models predict. The first positions of a response, before which there is the prompt, are
    paired where they predict from the same byte. Time and memory (one byte a cell) of a response
    are its tokens under one tokenizer times those under the other.
    """
    source_T = np.full(len(pivot.gold_R), -1, np.int64)
    _pair(
        texts_of(source, source_table),
        texts_of(pivot, pivot_table),
        source.row_N1,
        pivot.row_N1,
        source.start_R,
        pivot.start_R,
        mapping.pivot_V[source.gold_R],
        pivot.gold_R,
        source_T,
    )
    return source_T


def texts_of(here: Positions, table: TokenTable) -> Texts:
    """The bytes of each position's token as far as they lie in the response: a dummy prefix, or the
    rest of a token that goes on after the response, is left out. Empty for the end of the turn."""
    flat, begin_V1 = table.flat
    begin_R, end_R = begin_V1[here.gold_R], begin_V1[here.gold_R + 1]
    width_R = np.diff(here.start_R, append=0).astype(np.int64)
    last = here.row_N1[1:][np.diff(here.row_N1) > 0] - 1
    width_R[last] = 0
    dummy_R = (end_R - begin_R == width_R + 1) & (flat[np.minimum(begin_R, len(flat) - 1)] == BLANK)
    begin_R = begin_R + dummy_R
    return Texts(flat, begin_R, np.minimum(end_R, begin_R + width_R))


@compiled
def _pair(
    source, pivot, source_row_N1, pivot_row_N1, start_U, start_T, stands_for_U, gold_T, source_T
):
    """source, pivot: Texts; stands_for_U: the pivot id that each source position's token has."""
    pattern = np.zeros(256, np.uint64)
    for n in range(len(pivot_row_N1) - 1):
        t, u = pivot_row_N1[n], source_row_N1[n]
        # The last position predicts the end of the turn: one token fewer than positions.
        tokens_t, tokens_u = pivot_row_N1[n + 1] - t - 1, source_row_N1[n + 1] - u - 1
        if tokens_t < 0 or tokens_u < 0:
            continue
        if start_T[t] == start_U[u]:
            source_T[t] = u
        if tokens_t == 0 or tokens_u == 0:
            continue
        move_TU = np.empty((tokens_t, tokens_u), np.uint8)
        _warp(pivot, t, source, u, pattern, move_TU)
        partner_T, partners_U = _partners(move_TU)
        for i in range(tokens_t):
            j = partner_T[i]
            if j < 0 or partners_U[j] > 1:
                continue
            if stands_for_U[u + j] == gold_T[t + i] or _equal(pivot, t + i, source, u + j):
                source_T[t + i + 1] = u + j + 1


@compiled
def _warp(pivot, t, source, u, pattern, move_TU):
    """Fill move_TU with the last move of the cheapest path to every pair of tokens.

    cost(i, j) = distance(i, j) + min(cost(i - 1, j - 1), cost(i, j - 1), cost(i - 1, j)); of equal
    ones the first in this order, as in FuseLLM: both go on, the source alone, the pivot alone.
    """
    tokens_t, tokens_u = move_TU.shape
    total_U = np.full(tokens_u, FAR, np.int64)
    for i in range(tokens_t):
        begin, end = pivot.begin_R[t + i], pivot.end_R[t + i]
        mark(pattern, pivot.flat, begin, end)
        corner = np.int64(0) if i == 0 else FAR
        for j in range(tokens_u):
            best, move = corner, BOTH
            if j > 0 and total_U[j - 1] < best:
                best, move = total_U[j - 1], SOURCE_ALONE
            if total_U[j] < best:
                best, move = total_U[j], PIVOT_ALONE
            corner = total_U[j]
            first, last = source.begin_R[u + j], source.end_R[u + j]
            apart = distance(pattern, pivot.flat, begin, end, source.flat, first, last, FAR)
            total_U[j] = best + apart
            move_TU[i, j] = move
        clear(pattern, pivot.flat, begin, end)


@compiled
def _partners(move_TU):
    """Back along the cheapest path: the one source token that each pivot token is paired with, -1
    where there are several; and how many pivot tokens each source token is paired with."""
    tokens_t, tokens_u = move_TU.shape
    partner_T = np.full(tokens_t, -1, np.int64)
    partners_T = np.zeros(tokens_t, np.int64)
    partners_U = np.zeros(tokens_u, np.int64)
    i, j = tokens_t - 1, tokens_u - 1
    while i >= 0 and j >= 0:
        partners_T[i] += 1
        partners_U[j] += 1
        partner_T[i] = j if partners_T[i] == 1 else -1
        move = move_TU[i, j]
        if move != SOURCE_ALONE:
            i -= 1
        if move != PIVOT_ALONE:
            j -= 1
    return partner_T, partners_U


@compiled
def _equal(pivot, t, source, u):
    """Whether two tokens have the same bytes."""
    ours = pivot.flat[pivot.begin_R[t] : pivot.end_R[t]]
    theirs = source.flat[source.begin_R[u] : source.end_R[u]]
    return len(ours) == len(theirs) and (ours == theirs).all()
