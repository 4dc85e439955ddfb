"""What is kept of a position's logits: its top-K and five scalars over the whole vocabulary.

Axes: C positions of a chunk, V vocabulary, K kept entries.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from infifusion.rows import compiled
from infifusion.types import Beliefs

# Running sums and maxima per row. Entry v belongs to lane v % LANES: vector units work on many
# lanes at once, and the order of every sum is fixed.
LANES = 256
LOG2_E = np.float32(1.44269504088896341)
# ln 2 in two parts, and a polynomial for exp on [-ln 2 / 2, ln 2 / 2]: Cephes, expf.c, S. Moshier.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
LOWEST = np.float32(-87)  # exp of anything lower is below the smallest normal float32
HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)
BIAS, FRACTION_BITS = np.int32(127), np.int32(23)  # of a float32's exponent; below it


def statistics(logits_CV: torch.Tensor, gold_C: torch.Tensor, top_k: int) -> Beliefs:
    """The beliefs (float32) of C positions, by their float32 logits and the tokens that are there.

    Entries with equal logits are in the order of their ids on a CPU. Where a logit is NaN or +Inf
    the row's log-sum-exp is not finite. On a CPU two passes of compiled loops over each row, which
    lies in the cache the second time.
    """
    if logits_CV.device.type == "cpu" and top_k <= LANES:
        return _compiled(logits_CV.contiguous().numpy(), gold_C.numpy(), top_k)
    return _by_torch(logits_CV, gold_C, top_k)


def _by_torch(logits_CV: torch.Tensor, gold_C: torch.Tensor, top_k: int) -> Beliefs:
    lse_C = logits_CV.logsumexp(dim=1)
    top_CK, ids_CK = logits_CV.topk(top_k, dim=1)
    gold_logit_C = logits_CV.gather(1, gold_C[:, None])[:, 0]
    std_C, mean_C = torch.std_mean(logits_CV, dim=1, correction=0)
    # -inf logits (masked entries) have probability 0 and add nothing to the entropy.
    prob_CV = (logits_CV - lse_C[:, None]).exp_()
    entropy_C = lse_C - prob_CV.mul_(logits_CV).nan_to_num_(0.0).sum(dim=1)
    return Beliefs(
        ids_CK.int().cpu().numpy(),
        (top_CK - lse_C[:, None]).cpu().numpy(),
        (gold_logit_C - lse_C).cpu().numpy(),
        entropy_C.clamp_min(0).cpu().numpy(),
        lse_C.cpu().numpy(),
        mean_C.cpu().numpy(),
        std_C.cpu().numpy(),
    )


def _compiled(logits_CV: NDArray[np.float32], gold_C: NDArray[np.int64], top_k: int) -> Beliefs:
    rows = len(logits_CV)
    ids_CK = np.empty((rows, top_k), np.int32)
    top_CK = np.empty((rows, top_k), np.float32)
    scalar_C5 = np.empty((rows, 5), np.float32)
    threads = max(1, min(torch.get_num_threads(), rows))
    cuts = np.linspace(0, rows, threads + 1).astype(np.int64)

    def some(n: int) -> None:
        part = slice(cuts[n], cuts[n + 1])
        _rows(logits_CV[part], gold_C[part], ids_CK[part], top_CK[part], scalar_C5[part])

    if threads == 1:
        some(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, range(threads)))
    gold, entropy, lse, mean, std = np.ascontiguousarray(scalar_C5.T)
    return Beliefs(ids_CK, top_CK - lse[:, None], gold, entropy, lse, mean, std)


@compiled
def _rows(logits_CV, gold_C, ids_CK, top_CK, scalar_C5):
    """scalar_C5: gold log-probability, entropy, log-sum-exp, mean, standard deviation."""
    size, entries = logits_CV.shape[1], ids_CK.shape[1]
    # One allocation each: of rows of one array the compiler does not know that they do not
    # overlap, and then it does not vectorise (five times slower).
    highest, first = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    second, mass = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    moment = np.empty(LANES, np.float32)
    for c in range(len(logits_CV)):
        row = logits_CV[c]
        centre = row[0] if np.isfinite(row[0]) else ZERO
        _sums(row, centre, highest, first, second)
        largest = np.max(highest)
        # At least K logits are not below the K-th largest maximum of a lane.
        border = np.partition(highest, LANES - entries)[LANES - entries]
        _keep_largest(row, border, ids_CK[c], top_CK[c])
        _exponentials(row, largest, mass, moment)
        total, weighted, sum1, sum2 = 0.0, 0.0, 0.0, 0.0
        for i in range(LANES):
            total += mass[i]
            weighted += moment[i]
            sum1 += first[i]
            sum2 += second[i]
        log_total = np.log(total)
        lse = largest + log_total
        if np.isnan(sum1) or largest == np.inf:
            lse = np.nan
        scalar_C5[c, 0] = row[gold_C[c]] - lse
        scalar_C5[c, 1] = max(log_total - weighted / total, 0.0)
        scalar_C5[c, 2] = lse
        scalar_C5[c, 3] = centre + sum1 / size
        scalar_C5[c, 4] = np.sqrt(max(sum2 / size - (sum1 / size) ** 2, 0.0))


@compiled
def _sums(row, centre, highest, first, second):
    """Per lane: the maximum, and the sums of x - centre and of its square."""
    for i in range(LANES):
        highest[i] = -np.inf
        first[i] = second[i] = ZERO
    for start in range(0, len(row), LANES):
        tile = row[start : start + LANES]
        for i in range(len(tile)):
            highest[i] = tile[i] if tile[i] > highest[i] else highest[i]
            x = tile[i] - centre
            first[i] += x
            second[i] += x * x


@compiled
def _exponentials(row, largest, mass, moment):
    """Per lane: the sums of exp(x - largest), and of that times x - largest."""
    power = np.empty(LANES, np.float32)
    exponent = np.empty(LANES, np.int32)
    scale = exponent.view(np.float32)  # 2 ** n
    for i in range(LANES):
        mass[i] = moment[i] = ZERO
    for start in range(0, len(row), LANES):
        tile = row[start : start + LANES]
        for i in range(len(tile)):
            x = tile[i] - largest
            x = x if x > LOWEST else LOWEST
            n = np.floor(x * LOG2_E + HALF)
            r = (x - n * LN2_HIGH) - n * LN2_LOW
            p = EXP[0] * r + EXP[1]
            p = p * r + EXP[2]
            p = p * r + EXP[3]
            p = p * r + EXP[4]
            p = p * r + EXP[5]
            power[i] = p * (r * r) + (r + ONE)
            exponent[i] = (np.int32(n) + BIAS) << FRACTION_BITS
        for i in range(len(tile)):
            x = tile[i] - largest
            x = x if x > LOWEST else LOWEST
            e = power[i] * scale[i]
            mass[i] += e
            moment[i] += e * x


@compiled
def _keep_largest(row, border, ids_K, top_K):
    """The K largest of a row, none of which is below the border."""
    kept = 0
    for start in range(0, len(row), LANES):
        tile = row[start : start + LANES]
        candidates = 0
        for i in range(len(tile)):
            candidates += tile[i] >= border
        if candidates:
            kept = _keep(tile, start, border, kept, ids_K, top_K)


@compiled
def _keep(tile, start, border, kept, ids_K, top_K):
    """Take in the entries of a tile that are not below the border; returns how many are kept."""
    size = len(ids_K)
    for i in range(len(tile)):
        value = tile[i]
        if value >= border and (kept < size or value > top_K[size - 1]):
            place = min(kept, size - 1)
            while place > 0 and value > top_K[place - 1]:
                top_K[place] = top_K[place - 1]
                ids_K[place] = ids_K[place - 1]
                place -= 1
            top_K[place] = value
            ids_K[place] = start + i
            kept = min(kept + 1, size)
    return kept
