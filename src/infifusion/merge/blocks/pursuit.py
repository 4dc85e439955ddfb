"""Orthogonal matching pursuit: a vector as a sum of few others out of many.

Pati, Rezaiifar and Krishnaprasad 1993, in rounds: the vectors that are looked through are those
that are most alike to what is left at the beginning of a round; among these each step takes the one
most alike to what is left then, and the weights of all that were taken are the best together.

Axes: B vectors, N others (anchors), D width, K anchors taken, C candidates of a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np

# Sums may be added up in the order that suits the processor: which anchors are taken is a matter of
# the last digits anyway. The same machine gives the same bits.
summing = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)
ROUNDS = 4
CANDIDATES = 8  # times as many as a round takes
LEAST = np.float32(1e-3)  # of an anchor that is no sum of those that were taken before
TOGETHER = 256  # vectors that are sought together
AT_ONCE = 16  # of these, in one thread
Parallel = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True)
class Sums:
    """Rows that are sums of others: [M, K] rows of the others and their weights; a weight is 0
    where there are fewer. left: the mean share of the length that the sums lack, where they stand
    for vectors that are known."""

    row_MK: np.ndarray
    weight_MK: np.ndarray
    left: float | None = None


def means_of(rows: list[list[int]]) -> Sums:
    """The mean of some rows for each of M."""
    most = max(map(len, rows), default=0)
    row_MK = np.zeros((len(rows), most), np.int64)
    weight_MK = np.zeros((len(rows), most), np.float32)
    for m, listed in enumerate(rows):
        row_MK[m, : len(listed)] = listed
        weight_MK[m, : len(listed)] = 1 / max(len(listed), 1)
    return Sums(row_MK, weight_MK)


def sums_of_anchors(
    read: Callable[[slice], np.ndarray],
    number: int,
    anchor_ND: np.ndarray,
    count: int,
    *,
    parallel: Parallel = map,
) -> Sums:
    """`number` vectors as sums of `count` anchors; read gives some of the vectors, zeros for one
    that is not known. Anchors of no length are not used."""
    length_N = np.linalg.norm(anchor_ND, axis=1)
    usable_N = np.flatnonzero(length_N > 0)
    unit_ND = anchor_ND[usable_N] / length_N[usable_N, None]
    row_MK = np.zeros((number, count), np.int64)
    weight_MK = np.zeros((number, count), np.float32)
    left: list[float] = []
    for start in range(0, number, TOGETHER):
        part = slice(start, min(start + TOGETHER, number))
        vector_BD = read(part)
        found = pursue(vector_BD, unit_ND, count, parallel=parallel)
        anchor_BK = usable_N[found.anchor_BK]
        K = anchor_BK.shape[1]
        row_MK[part, :K] = anchor_BK
        weight_MK[part, :K] = found.weight_BK / length_N[anchor_BK]
        left += found.left_B[vector_BD.any(axis=1)].tolist()
    return Sums(row_MK, weight_MK, float(np.mean(left)) if left else None)


@dataclass(frozen=True)
class Pursued:
    """anchor_BK, weight_BK: which anchors, and their weights; weight 0 where fewer do. left_B: the
    share of each vector's length that is missing."""

    anchor_BK: np.ndarray
    weight_BK: np.ndarray
    left_B: np.ndarray


def pursue(
    vector_BD: np.ndarray,
    anchor_ND: np.ndarray,
    count: int,
    *,
    rounds: int = ROUNDS,
    candidates: int = CANDIDATES,
    parallel: Parallel = map,
) -> Pursued:
    """Each vector as a sum of `count` anchors at most, or of all where there are fewer. Both are
    float32; the anchors have length 1. candidates: of a round, per anchor that it takes."""
    B, D = vector_BD.shape
    K = min(count, len(anchor_ND), D)
    left_BD = vector_BD.astype(np.float32)
    basis_BKD = np.zeros((B, K, D), np.float32)
    upper_BKK = np.zeros((B, K, K), np.float32)
    along_BK = np.zeros((B, K), np.float32)
    anchor_BK = np.full((B, K), -1, np.int64)
    taken_B = np.zeros(B, np.int64)
    for first, last in pairwise(np.linspace(0, K, min(rounds, K) + 1).round().astype(int)):
        alike_BN = left_BD @ anchor_ND.T
        C = min(candidates * int(last - first), len(anchor_ND))

        def work(part: slice, last=int(last), alike_BN=alike_BN, C=C) -> None:
            _round(
                left_BD[part], anchor_ND, alike_BN[part], C, last, taken_B[part],
                basis_BKD[part], upper_BKK[part], along_BK[part], anchor_BK[part],
            )  # fmt: skip

        for _ in parallel(work, [slice(n, n + AT_ONCE) for n in range(0, B, AT_ONCE)]):
            pass
    weight_BK = np.zeros((B, K), np.float32)
    _solve(upper_BKK, along_BK, taken_B, weight_BK)
    length_B = np.linalg.norm(vector_BD, axis=1)
    left_B = np.linalg.norm(left_BD, axis=1) / np.maximum(length_B, np.finfo(np.float32).tiny)
    return Pursued(np.maximum(anchor_BK, 0), weight_BK, left_B)


@summing
def _round(
    left_BD, anchor_ND, alike_BN, C, last, taken_B, basis_BKD, upper_BKK, along_BK, anchor_BK
):
    """Take anchors for every vector until it has `last` of them, or none is left that helps."""
    D = left_BD.shape[1]
    candidate_C = np.empty(C, np.int64)
    alike_C = np.empty(C, np.float32)
    local_CD = np.empty((C, D), np.float32)
    for b in range(len(left_BD)):
        found = _most_alike(alike_BN[b], candidate_C, alike_C)
        for c in range(found):
            local_CD[c] = anchor_ND[candidate_C[c]]
        left_D, basis_KD = left_BD[b], basis_BKD[b]
        k = taken_B[b]
        while k < last:
            best = 0
            for c in range(found):
                if abs(alike_C[c]) > abs(alike_C[best]):
                    best = c
            if found == 0 or alike_C[best] == 0:
                break
            basis_KD[k] = local_CD[best]
            length = _made_upright(basis_KD, upper_BKK[b], k)
            alike_C[best] = 0
            if length < LEAST:  # a sum of those that are taken
                upper_BKK[b, : k + 1, k] = 0
                continue
            anchor_BK[b, k] = candidate_C[best]
            upright_D = basis_KD[k]
            along = np.float32(0)
            for d in range(D):
                along += upright_D[d] * left_D[d]
            along_BK[b, k] = along
            for d in range(D):
                left_D[d] -= along * upright_D[d]
            for c in range(found):
                if alike_C[c] != 0:
                    dot = np.float32(0)
                    for d in range(D):
                        dot += local_CD[c, d] * upright_D[d]
                    alike_C[c] -= along * dot
            k += 1
        taken_B[b] = k


@summing
def _made_upright(basis_KD, upper_KK, k):
    """Make row k upright to the rows before it, twice, and of length 1; the length that it had
    left. upper_KK gets what was taken off."""
    D = basis_KD.shape[1]
    new_D = basis_KD[k]
    for _ in range(2):
        for j in range(k):
            dot = np.float32(0)
            for d in range(D):
                dot += basis_KD[j, d] * new_D[d]
            upper_KK[j, k] += dot
            for d in range(D):
                new_D[d] -= dot * basis_KD[j, d]
    square = np.float32(0)
    for d in range(D):
        square += new_D[d] * new_D[d]
    length = np.sqrt(square)
    upper_KK[k, k] = length
    if length > 0:
        for d in range(D):
            new_D[d] /= length
    return length


@summing
def _most_alike(alike_N, index_C, alike_C):
    """The C entries that are largest without their sign, in no order: a heap whose first is the
    smallest. Returns how many there are."""
    C, found = len(index_C), 0
    for n in range(len(alike_N)):
        value = alike_N[n]
        if found < C:
            place = found
            while place > 0:
                above = (place - 1) // 2
                if abs(alike_C[above]) <= abs(value):
                    break
                alike_C[place], index_C[place] = alike_C[above], index_C[above]
                place = above
            alike_C[place], index_C[place] = value, n
            found += 1
        elif abs(value) > abs(alike_C[0]):
            place = 0
            while True:
                below = 2 * place + 1
                if below >= C:
                    break
                if below + 1 < C and abs(alike_C[below + 1]) < abs(alike_C[below]):
                    below += 1
                if abs(alike_C[below]) >= abs(value):
                    break
                alike_C[place], index_C[place] = alike_C[below], index_C[below]
                place = below
            alike_C[place], index_C[place] = value, n
    return found


@summing
def _solve(upper_BKK, along_BK, taken_B, weight_BK):
    """The weights of the anchors themselves, from those of the upright rows made of them."""
    for b in range(len(along_BK)):
        for k in range(taken_B[b] - 1, -1, -1):
            value = along_BK[b, k]
            for j in range(k + 1, taken_B[b]):
                value -= upper_BKK[b, k, j] * weight_BK[b, j]
            weight_BK[b, k] = value / upper_BKK[b, k, k]


@summing
def mix(row_ND, index_BK, weight_BK, out_BD):
    """Sums of rows with weights."""
    for b in range(len(out_BD)):
        out_BD[b] = 0
        for k in range(index_BK.shape[1]):
            weight = weight_BK[b, k]
            if weight != 0:
                row_D = row_ND[index_BK[b, k]]
                for d in range(row_ND.shape[1]):
                    out_BD[b, d] += weight * row_D[d]
