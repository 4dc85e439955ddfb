"""Plain arrays of probabilities, checked, and as the teacher pass would have cached them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infifusion.errors import DataError
from infifusion.types import Beliefs

LOWEST = 1e-30  # instead of a probability of 0, where its logarithm must be a number
SUM_TOLERANCE = 1e-2


def checked(
    values: ArrayLike, rows: int, where: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows of probabilities, and which of them are given: a row of NaN is not."""
    prob = np.asarray(values, np.float32)
    if prob.ndim != 2 or len(prob) != rows:
        raise DataError(
            f"{where}: expected an array of {rows} rows, one per position, over the vocabulary; "
            f"found the shape {list(prob.shape)}."
        )
    known: NDArray[np.bool_] = np.asarray(~np.isnan(prob).all(axis=1))
    total = prob[known].sum(axis=1, dtype=np.float64)
    bad = ~(np.abs(total - 1) < SUM_TOLERANCE) | ~(prob[known] >= 0).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(known)[bad.argmax()])
        raise DataError(
            f"{where}: row {row} is no distribution (it sums to {prob[row].sum():.3g}). Give "
            "probabilities, the softmax of logits; a row of NaN where the source says nothing."
        )
    return np.where(known[:, None], prob, 1 / prob.shape[1]).astype(np.float32), known


def beliefs_of(prob_UV: NDArray[np.float32], gold_U: NDArray[np.int32], top_k: int) -> Beliefs:
    """What the teacher pass would have cached of these distributions."""
    log_UV = np.log(np.maximum(prob_UV, LOWEST))
    ids_UK = np.argsort(-prob_UV, axis=1, kind="stable")[:, :top_k].astype(np.int32)
    return Beliefs(
        ids_UK=ids_UK,
        logprob_UK=_log(np.take_along_axis(prob_UV, ids_UK, axis=1)),
        gold_U=np.take_along_axis(log_UV, gold_U[:, None], axis=1)[:, 0],
        entropy_U=-(prob_UV * log_UV).sum(axis=1),
        lse_U=np.zeros(len(prob_UV), np.float32),  # log-probabilities are logits of that
        mean_U=log_UV.mean(axis=1),
        std_U=log_UV.std(axis=1),
    )


def _log(prob: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms; of 0 that of nothing, which takes no place in a mixture."""
    with np.errstate(divide="ignore"):
        return np.log(prob)
