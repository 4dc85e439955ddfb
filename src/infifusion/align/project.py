"""The sources' beliefs, carried to the pivot's positions and vocabulary.

Axes: S sources, T pivot positions, U positions of one source, K kept entries, R positions of
either, N examples (docs/notation.md). Everything is flat over the same examples; the loop over
positions is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import Positions, example_of, match
from infifusion.align.evidence import bits_per_byte, running_evidence
from infifusion.align.inside import Inside, fill_inside, places_inside
from infifusion.align.vocabulary import VocabularyMap
from infifusion.rows import add, compiled, keep_row
from infifusion.types import Aligned, Beliefs, lengths

ZERO, ONE, TINY = np.float32(0), np.float32(1), np.finfo(np.float32).tiny


Pair = Callable[[Positions, Positions], NDArray[np.int64]]
"""(source, pivot) -> for each pivot position the source position it is aligned with, or -1: [T]."""


def by_bytes(source: Positions, pivot: Positions) -> NDArray[np.int64]:
    """A pivot position takes the source position that predicts from the same byte; -1 where the
    source has none: [T]."""
    if source.aligns_R.all():
        source_T = match(pivot.key_R, source.key_R)
    else:
        place_U = np.flatnonzero(source.aligns_R)
        found_T = match(pivot.key_R, source.key_R[place_U])
        source_T = np.where(found_T >= 0, np.append(place_U, -1)[found_T], -1)
    return source_T if pivot.aligns_R.all() else np.where(pivot.aligns_R, source_T, -1)


class Believed(NamedTuple):
    """One source on some examples: its positions and what it believed there, its map to the pivot's
    ids, how its positions are aligned with the pivot's, and how its tokens are carried over where a
    pivot position lies inside of one (None: such positions are not taught)."""

    positions: Positions
    beliefs: Beliefs
    mapping: VocabularyMap
    pair: Pair
    inside: Inside | None = None


@dataclass(frozen=True)
class Origins:
    """Where the rows of an `Aligned` come from; for counts alone, no fusion function reads it.

    source_ST: int64, index of the aligned source position or -1. inside_ST: bool, positions inside
    of that source position's token. gold_path_ST: bool, positions where the chain rule gave the
    gold token its probability. unmapped_S: float64, probability,
    summed over aligned positions, that the vocabulary map could not place.
    """

    source_ST: NDArray[np.int64]
    inside_ST: NDArray[np.bool_]
    gold_path_ST: NDArray[np.bool_]
    unmapped_S: NDArray[np.float64]


def align_sources(
    sources: Sequence[Believed], pivot: Positions, *, gold_path: bool = True, zscores: bool = True
) -> tuple[Aligned, Origins]:
    """Every source at the pivot's positions of the same examples: align the positions, map the
    vocabulary, correct the gold path.

    A position that `pair` aligns with nothing takes what the source believed inside of a token
    (align.inside), where that is asked for and known well enough; else it is empty (source_ST =
    -1). Mapped probabilities that
    land on one pivot id add up; what cannot be mapped goes to the tail.

    Gold path, unless switched off: where the pivot's gold token g spans source tokens y_1..y_m
    that end on the same byte, P(g) = product of their gold probabilities. The mass that y_1 had
    under the map (on its pivot id h, if h is not g) becomes p(y_1) - P(g), so the total stays 1; if
    y_1 was outside the top-K, P(g) comes out of the tail. Spans that do not end together, or
    (aligned otherwise than by bytes) do not begin together, are left alone. Ours; the paper's
    alignment is not public to us.

    zscores: whether to carry the standardised logits too, which the loss `uld` alone reads.
    """
    count, width = len(pivot.gold_R), max(one.beliefs.ids_UK.shape[1] for one in sources)
    shape = (len(sources), count)
    rows = _Rows(
        ids=np.empty((*shape, width + 1), np.int32),
        prob=np.empty((*shape, width + 1), np.float32),
        tail=np.zeros(shape, np.float32),
        entropy=np.zeros(shape, np.float32),
        top=np.zeros(shape, np.float32),
        zscore=np.zeros((*shape, width if zscores else 0), np.float32),
        gold_path=np.zeros(shape, np.bool_),
    )
    source_ST, unmapped_S = np.empty(shape, np.int64), np.zeros(len(sources))
    inside_ST = np.zeros(shape, np.bool_)
    for s, (here, beliefs, mapping, pair, inside) in enumerate(sources):
        source_ST[s] = _public(pair(here, pivot), here, pivot)
        last_T = _path_ends(here, pivot, source_ST[s]) if gold_path else np.full(count, -1)
        source, out = _source(here, beliefs, mapping), _Rows(*(array[s] for array in rows))
        unmapped_S[s] = _project(source_ST[s], last_T, source, pivot.gold_R, out)
        if inside is not None:
            place = places_inside(here, pivot, source_ST[s], inside.source, gold_path=gold_path)
            taught_P = fill_inside(inside, place, source, pivot.gold_R, out)
            inside_ST[s, place.t_P[taught_P]] = True
            source_ST[s, place.t_P[taught_P]] = place.u_P[taught_P]

    def evidence(forgetting: float) -> NDArray[np.float32]:
        evidence_ST = np.zeros(shape, np.float32)
        for s, (here, beliefs, *_) in enumerate(sources):
            running_U = running_evidence(
                beliefs.gold_U, here.start_R, here.row_N1, forgetting=forgetting
            )
            there_T = source_ST[s] >= 0
            evidence_ST[s, there_T] = running_U[source_ST[s, there_T]]
        return evidence_ST

    bits_SN = [bits_per_byte(b.gold_U, here.start_R, here.row_N1) for here, b, *_ in sources]
    aligned = Aligned(
        ids_STK=rows.ids,
        prob_STK=rows.prob,
        tail_ST=rows.tail,
        aligned_ST=source_ST >= 0,
        entropy_ST=rows.entropy,
        top_ST=rows.top,
        zscore_STK=rows.zscore if zscores else None,
        bits_SN=np.stack(bits_SN),
        evidence=evidence,
        example_T=example_of(pivot.row_N1),
    )
    return aligned, Origins(source_ST, inside_ST, rows.gold_path, unmapped_S)


def _public(source_T: NDArray[np.int64], source: Positions, pivot: Positions) -> NDArray[np.int64]:
    """The same pairs without those of text that one of the two alone writes: [T]."""
    if pivot.private_R is not None:
        source_T = np.where(pivot.private_R, -1, source_T)
    if source.private_R is not None:
        source_T = np.where((source_T >= 0) & source.private_R[source_T], -1, source_T)
    return source_T


def _path_ends(
    source: Positions, pivot: Positions, source_T: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The source position whose token ends with the pivot's gold token, -1 where there is none or
    where the aligned positions do not begin on the same byte: [T].

    The end of the turn may be several tokens; it is one thing that ends with the last of them."""
    turn_T = pivot.start_R == lengths(pivot.start_R, pivot.row_N1)
    last_T = match(np.where(turn_T, pivot.key_R + 1, pivot.end_R), source.end_R)
    return np.where(source.key_R[source_T] == pivot.key_R, last_T, -1)


class _Rows(NamedTuple):
    """What `_project` fills in: the fields of types.Aligned, with or without the source axis."""

    ids: NDArray[np.int32]
    prob: NDArray[np.float32]
    tail: NDArray[np.float32]
    entropy: NDArray[np.float32]
    top: NDArray[np.float32]
    zscore: NDArray[np.float32]
    gold_path: NDArray[np.bool_]


class _Source(NamedTuple):
    """What `_project` reads of a source; before_U1: the sum of the gold log-probabilities before
    each position."""

    ids_UK: NDArray[np.int32]
    logprob_UK: NDArray[np.float32]
    prob_UK: NDArray[np.float32]
    gold_U: NDArray[np.int32]
    before_U1: NDArray[np.float64]
    entropy_U: NDArray[np.float32]
    lse_U: NDArray[np.float32]
    mean_U: NDArray[np.float32]
    std_U: NDArray[np.float32]
    pivot_V: NDArray[np.int32]


def _source(here: Positions, beliefs: Beliefs, mapping: VocabularyMap) -> _Source:
    logprob_UK = beliefs.logprob_UK.astype(np.float32, copy=False)
    return _Source(
        beliefs.ids_UK,
        logprob_UK,
        np.exp(logprob_UK),
        here.gold_R,
        np.concatenate([[0.0], np.cumsum(beliefs.gold_U, dtype=np.float64)]),
        beliefs.entropy_U,
        beliefs.lse_U,
        beliefs.mean_U,
        beliefs.std_U,
        mapping.pivot_V,
    )


@compiled
def _project(source_T, last_T, source, gold_T, out):
    """One source's rows, position by position. Returns the probability that was not mapped."""
    entries = source.ids_UK.shape[1]
    ids_J, row_J = np.empty(entries + 2, np.int32), np.empty(entries + 2, np.float32)
    unmapped = 0.0
    for t in range(len(source_T)):
        u = source_T[t]
        used = 0
        if u < 0:
            keep_row(ids_J, row_J, used, out.ids[t], out.prob[t])
            continue
        written = source.gold_U[u]
        kept = False
        for k in range(entries):
            prob = source.prob_UK[u, k]
            if prob > 0:
                kept = kept or source.ids_UK[u, k] == written
                token = source.pivot_V[source.ids_UK[u, k]]
                if token >= 0:
                    used = add(ids_J, row_J, used, token, prob, used)
                else:
                    unmapped += prob
        stands_for = source.pivot_V[written]
        if last_T[t] >= u and stands_for != gold_T[t]:
            path = np.float32(np.exp(source.before_U1[last_T[t] + 1] - source.before_U1[u]))
            if kept and stands_for >= 0:
                used = add(ids_J, row_J, used, stands_for, -path, used)
            used = add(ids_J, row_J, used, gold_T[t], path, used)
            out.gold_path[t] = True
            for j in range(used):
                # fp16 log-probabilities are rounded: a difference of equals may fall below zero.
                row_J[j] = max(row_J[j], ZERO)
        keep_row(ids_J, row_J, used, out.ids[t], out.prob[t])
        total = ZERO
        for k in range(used):
            total += out.prob[t, k]
        if total > 1:  # ... and their sum rise above one
            for k in range(used):
                out.prob[t, k] /= total
        out.tail[t] = max(ONE - total, ZERO)
        out.entropy[t], out.top[t] = source.entropy_U[u], source.prob_UK[u, 0]
        # A kept logit is its log-probability plus the log-sum-exp.
        shift, scale = source.lse_U[u] - source.mean_U[u], ONE / max(source.std_U[u], TINY)
        for k in range(min(entries, out.zscore.shape[1])):
            out.zscore[t, k] = (source.logprob_UK[u, k] + shift) * scale
    return unmapped
