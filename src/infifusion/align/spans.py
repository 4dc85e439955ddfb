"""The shortest spans of bytes that the pivot and its sources cut alike, and what each says of them.

The log-probabilities of a text's tokens add up to the same quantity however it is cut into tokens.
So the probability that a source gives to what the pivot wrote between two boundaries that both have
is the product over its own tokens there, and can be compared with the pivot's.

Axes: S sources, T pivot positions, U positions of one source, J spans, N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import BYTES_PER_EXAMPLE, Positions, example_of, match


@dataclass(frozen=True)
class Spans:
    """Spans of some examples.

    key_J: where each begins, as `boundaries.keys`. span_T: the span of each pivot position, -1
    before the first boundary that all share. first_J: its first pivot position.
    """

    key_J: NDArray[np.int64]
    span_T: NDArray[np.int64]
    first_J: NDArray[np.int64]

    def sums(self, value_R: NDArray[np.floating], positions: Positions) -> NDArray[np.float64]:
        """A value of every position (of the pivot or of a source), summed over each span: [J]."""
        return self._summed(value_R, span_of(self.key_J, positions))

    def of_pivot(self, value_T: NDArray[np.floating]) -> NDArray[np.float64]:
        """The same of a value of the pivot's positions."""
        return self._summed(value_T, self.span_T)

    def spread(self, value_J: NDArray[np.floating]) -> NDArray[np.float32]:
        """A value of every span, in equal parts to its pivot positions: [T]; 0 outside."""
        count_J = np.bincount(self.span_T[self.span_T >= 0], minlength=len(self.key_J))
        part_J = np.append(value_J / np.maximum(count_J, 1), 0)
        return part_J[self.span_T].astype(np.float32)

    def _summed(
        self, value_R: NDArray[np.floating], span_R: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        inside_R = span_R >= 0
        weights = np.asarray(value_R, np.float64)[inside_R]
        summed_J = np.bincount(span_R[inside_R], weights=weights, minlength=len(self.key_J))
        return summed_J.astype(np.float64)


def common_spans(
    pivot: Positions, sources: Sequence[Positions], open_SN: NDArray[np.bool_]
) -> Spans:
    """The spans between the boundaries that the pivot and all sources that are open on an example
    share. open_SN: which sources count on which example; those that do not, cut nothing."""
    common_T = pivot.aligns_R.copy()
    example_T = example_of(pivot.row_N1)
    for here, open_N in zip(sources, open_SN, strict=True):
        has_T = match(pivot.key_R, here.key_R[here.aligns_R]) >= 0
        common_T &= has_T | ~open_N[example_T]
    key_J = pivot.key_R[common_T]
    return Spans(key_J, span_of(key_J, pivot), np.flatnonzero(common_T))


def span_of(key_J: NDArray[np.int64], positions: Positions) -> NDArray[np.int64]:
    """The span that each position lies in, -1 for what stands before an example's first: [R]."""
    span_R = np.searchsorted(key_J, positions.key_R, side="right") - 1
    example_R = example_of(positions.row_N1)
    found_R = np.append(key_J, -1)[span_R] // BYTES_PER_EXAMPLE == example_R
    return np.where((span_R >= 0) & found_R & (positions.start_R >= 0), span_R, -1)


def mixed(logprob_SJ: NDArray[np.floating], weight_SJ: NDArray[np.floating]) -> NDArray[np.float64]:
    """log sum_s w_s P_s of every span: [J], nats; -inf where no source has weight."""
    with np.errstate(divide="ignore"):
        each_SJ = np.log(weight_SJ, dtype=np.float64) + logprob_SJ
        highest_J = each_SJ.max(axis=0, initial=-np.inf)
        safe_J = np.where(np.isfinite(highest_J), highest_J, 0)
        return safe_J + np.log(np.exp(each_SJ - safe_J).sum(axis=0))


def advantages(
    fused_J: NDArray[np.floating],
    own_J: NDArray[np.floating],
    reference_J: NDArray[np.floating] | None = None,
    *,
    extrapolate: float = 1.0,
) -> NDArray[np.float64]:
    """How much likelier the sources find each span than the pivot did: [J], nats.

        x (log P - log R) + log R - log Q

    P the sources' (`mixed`), Q the pivot's, R that of the pivot before training, x = extrapolate;
    at x = 1 log P - log Q. The optimum of its policy gradient is R (P / R)^x (ExOPD, arXiv
    2602.12125). 0 where no source speaks (fused_J = -inf).
    """
    taught_J = np.isfinite(fused_J)
    fused_J = np.where(taught_J, fused_J, 0).astype(np.float64)
    if extrapolate != 1:
        assert reference_J is not None, "extrapolate needs the reference"
        fused_J = extrapolate * (fused_J - reference_J) + reference_J
    return np.where(taught_J, fused_J - own_J, 0)


def token_advantages(
    pivot: Positions,
    own_T: NDArray[np.floating],
    sources: Sequence[tuple[Positions, NDArray[np.floating]]],
    open_SN: NDArray[np.bool_],
    weight_ST: NDArray[np.floating],
    *,
    reference_T: NDArray[np.floating] | None = None,
    extrapolate: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(the advantage of each of the pivot's tokens, whether any source speaks of it): [T] each.

    own_T: log-probabilities (nats) that the pivot gave its tokens; sources: positions of each, and
    the log-probabilities of its own tokens; weight_ST: of a fused target, taken where a span
    begins. The advantage of a span is spread in equal parts over the pivot's tokens in it, so that
    their sum depends on the span's bytes alone.
    """
    spans = common_spans(pivot, [here for here, _ in sources], open_SN)
    logprob_SJ = np.stack([spans.sums(gold_U, here) for here, gold_U in sources])
    fused_J = mixed(logprob_SJ, weight_ST[:, spans.first_J])
    reference_J = None if reference_T is None else spans.of_pivot(reference_T)
    value_J = advantages(fused_J, spans.of_pivot(own_T), reference_J, extrapolate=extrapolate)
    spoken_T = np.append(np.isfinite(fused_J), False)[spans.span_T]
    return spans.spread(value_J), spoken_T
