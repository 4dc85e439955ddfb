"""How well a source has predicted the response so far, in nats, comparable across tokenizers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from infifusion.rows import compiled
from infifusion.types import in_response


def running_evidence(
    gold_U: NDArray[np.float32],
    start_U: NDArray[np.int32],
    row_N1: NDArray[np.int64],
    *,
    forgetting: float,
) -> NDArray[np.float32]:
    """Discounted log-probability of the response before each source position: [U].

    With g_r the gold log-probability of token r, which ends at byte e_r, the value at a position
    that starts at byte b is

        sum over r with e_r <= b of forgetting ** (b - e_r) * g_r

    0 at the first position of an example; what the model writes before the response (its lead) does
    not count. Log-probabilities of a text add up to the same quantity
    however it is cut into tokens, so sources with different tokenizers can be compared.

    Tokens tile the response, so a token ends where the next one starts.
    """
    evidence_U = np.zeros(len(gold_U), dtype=np.float32)
    _running(gold_U, start_U, row_N1, forgetting, evidence_U)
    return evidence_U


@compiled
def _running(gold_U, start_U, row_N1, forgetting, evidence_U):
    for n in range(len(row_N1) - 1):
        running = 0.0
        for u in range(row_N1[n] + 1, row_N1[n + 1]):
            if start_U[u] > 0:
                faded = forgetting ** np.float64(start_U[u] - start_U[u - 1])
                running = faded * running + np.float64(gold_U[u - 1])
            evidence_U[u] = running


def bits_per_byte(
    gold_U: NDArray[np.float32], start_U: NDArray[np.int32], row_N1: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Bits per byte of each response: [N].

    Minus the sum of log2 p over the response's tokens (its lead and the end of the turn apart),
    over the bytes those tokens cover. NaN for an example without response bytes.
    """
    counted_U = np.where(in_response(start_U, row_N1), gold_U, 0)
    total = np.concatenate([[0.0], np.cumsum(counted_U, dtype=np.float64)])
    nats_N = total[row_N1[1:]] - total[row_N1[:-1]]
    bytes_N = np.zeros(len(nats_N))
    some = np.diff(row_N1) > 0
    bytes_N[some] = start_U[row_N1[1:][some] - 1] - np.maximum(start_U[row_N1[:-1][some]], 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (-nats_N / math.log(2) / bytes_N).astype(np.float32)
