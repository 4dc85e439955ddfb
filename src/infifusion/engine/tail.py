"""The entropy of a distribution of which only the top and the mass of the rest are known.

A server gives the K largest probabilities p_1 >= ... >= p_K. The rest, r = 1 - sum p_k, is spread
over V - K entries, none of which is larger than p_K. With H_K = -sum p_k log p_k:

    least     H_K + the rest in as few entries as can be: n of p_K each, and what is left over
    most      H_K - r log(r / (V - K)): the rest spread evenly
    estimate  H_K + the rest as a power law through p_K: q_i = p_K (i / K)^-a for i = K + 1 ... V,
              with the one a that makes sum q_i = r

The power law keeps both bounds, as it is a distribution that is allowed. (Ours; word frequencies
have fallen by such laws since Zipf 1949. docs/scaling.md has what it gives on real models.)

Axes: U positions, K kept entries, V vocabulary.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

KIND = "power law behind the top"
"""What the estimate is called in fingerprints and manifests."""
EXPONENTS = np.concatenate([np.linspace(0, 12, 481), np.geomspace(12.1, 400, 60)])
SMALLEST = 1e-12  # of a rest that counts as one


def entropies(
    logprob_UK: NDArray[np.floating], vocabulary: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(estimate, least, most) of every position, in nats; logprob_UK: its K largest, descending."""
    log_UK = logprob_UK.astype(np.float64)
    prob_UK = np.exp(log_UK)
    top_U = -(prob_UK * np.where(prob_UK > 0, log_UK, 0.0)).sum(axis=1)
    kept, others = log_UK.shape[1], vocabulary - log_UK.shape[1]
    rest_U = np.clip(1 - prob_UK.sum(axis=1), 0.0, 1.0)
    last_U = np.maximum(prob_UK[:, -1], SMALLEST / max(others, 1))
    if others <= 0:
        return (top_U.astype(np.float32),) * 3
    # Rounded log-probabilities may leave a rest that V - K entries of p_K cannot hold.
    rest_U = np.where(rest_U < SMALLEST, 0.0, np.minimum(rest_U, others * last_U))
    ratio_U = rest_U / last_U
    whole_U = np.floor(ratio_U)
    left_U = np.maximum(rest_U - whole_U * last_U, 0.0)
    least_U = -whole_U * last_U * np.log(last_U) - _plogp(left_U)
    most_U = -rest_U * np.log(np.maximum(rest_U, SMALLEST) / others)
    mass_A, spread_A = _power_laws(kept, vocabulary)
    # np.interp wants ascending values; the masses descend with the exponent.
    found_U = np.interp(np.log(np.maximum(ratio_U, SMALLEST)), mass_A[::-1], spread_A[::-1])
    middle_U = rest_U * (found_U - np.log(last_U))
    middle_U = np.clip(middle_U, least_U, np.maximum(most_U, least_U))
    return (
        (top_U + middle_U).astype(np.float32),
        (top_U + least_U).astype(np.float32),
        (top_U + np.maximum(most_U, least_U)).astype(np.float32),
    )


def _plogp(prob_U: NDArray[np.float64]) -> NDArray[np.float64]:
    return prob_U * np.log(np.where(prob_U > 0, prob_U, 1.0))


@cache
def _power_laws(kept: int, vocabulary: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each exponent a: log sum (i / K)^-a over i = K + 1 ... V, and a times the mean of
    log(i / K) under that law."""
    log_I = np.log(np.arange(kept + 1, vocabulary + 1) / kept)
    mass_A, spread_A = np.empty(len(EXPONENTS)), np.empty(len(EXPONENTS))
    for n, exponent in enumerate(EXPONENTS):
        weight_I = np.exp(-exponent * log_I)
        total = weight_I.sum()
        mass_A[n] = np.log(max(total, 1e-300))
        spread_A[n] = exponent * float(weight_I @ log_I) / max(total, 1e-300)
    return mass_A, spread_A
