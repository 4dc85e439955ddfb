"""Standardised logits of a source, carried to the pivot's positions.

Axes: T pivot positions, U source positions, K kept entries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infifusion.rows import compiled
from infifusion.types import Beliefs


def zscores(beliefs: Beliefs, source_T: NDArray[np.int64]) -> NDArray[np.float32]:
    """The kept logits, standardised over the full vocabulary: (logit - mean) / std, [T, K];
    0 where source_T is -1."""
    found_TK = np.zeros((len(source_T), beliefs.logprob_UK.shape[1]), np.float32)
    # A kept logit is its log-probability plus the log-sum-exp.
    shift_U = beliefs.lse_U - beliefs.mean_U
    scale_U = 1 / np.maximum(beliefs.std_U, np.finfo(np.float32).tiny)
    _zscores(beliefs.logprob_UK.astype(np.float32), shift_U, scale_U, source_T, found_TK)
    return found_TK


@compiled
def _zscores(logprob_UK, shift_U, scale_U, source_T, found_TK):
    for t in range(len(source_T)):
        u = source_T[t]
        if u >= 0:
            for k in range(logprob_UK.shape[1]):
                found_TK[t, k] = (logprob_UK[u, k] + shift_U[u]) * scale_U[u]
