"""The inner loops of merging, compiled: each works on one block that fits the cache.

Axes: S models, P positions of the block. Everything is float32 with sums in float64. No loop is
reordered by the compiler (no fast-math), so the same input gives the same bits in every process.
Sums run in LANES partial sums that are added up in a fixed order: vector units can add them side
by side, and the result does not depend on how wide they are.
"""

from __future__ import annotations

import numba
import numpy as np

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")

LANES = 256
TURNS = 4  # counters per value of a histogram
TILE = 1024  # positions that a loop over the models keeps in the first-level cache
MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits of a float32 but its sign
INFINITE = np.uint32(0x7F800000)
LEADING_SHIFT = np.uint32(15)  # leading part of a magnitude: 8 bits exponent, 8 of the fraction
SECOND_COUNT = 32  # bit where the second count of a counter of `count_leading_twice` begins
FIRST_COUNT = np.int64((1 << SECOND_COUNT) - 1)  # mask of the first
IN_BOTH = np.int64((1 << SECOND_COUNT) + 1)
ZERO = np.float32(0)
ONE = np.float32(1)


@compiled
def decode_bfloat16(raw_P, bits_P):
    """bfloat16 bits to float32 bits: exact. Returns how many are NaN or Inf."""
    bad = np.uint32(0)
    for i in range(len(raw_P)):
        bits = np.uint32(raw_P[i]) << np.uint32(16)
        bits_P[i] = bits
        bad += np.uint32((bits & MAGNITUDE) >= INFINITE)
    return bad


@compiled
def decode_rows(raw_SP, bits_SP):
    """`decode_bfloat16` of several tensors, a tuple; the number of the first with NaN or Inf, or
    -1."""
    first = -1
    for s in range(len(raw_SP)):
        if decode_bfloat16(raw_SP[s], bits_SP[s]) and first < 0:
            first = s
    return first


@compiled
def decode_deltas(raw_SP, base_P, bits_SP, row_SP):
    """`decode_rows`, minus the base; bits_SP and row_SP are two views of one array."""
    first = decode_rows(raw_SP, bits_SP)
    subtract(row_SP, base_P)
    return first


@compiled
def encode_bfloat16(bits_P, raw_P):
    """float32 bits to bfloat16 bits, to the nearest, ties to even; NaN stays NaN."""
    for i in range(len(bits_P)):
        x = bits_P[i]
        even = (x >> np.uint32(16)) & np.uint32(1)
        rounded = (x + np.uint32(0x7FFF) + even) >> np.uint32(16)
        quiet = (x >> np.uint32(16)) | np.uint32(0x40)
        raw_P[i] = np.uint16(quiet if (x & MAGNITUDE) > INFINITE else rounded)


@compiled
def count_not_finite(bits_P):
    """How many of the float32 are NaN or Inf."""
    found = np.uint32(0)
    for i in range(len(bits_P)):
        found += np.uint32((bits_P[i] & MAGNITUDE) >= INFINITE)
    return found


@compiled
def subtract(row_SP, base_P):
    """row -= base, in place."""
    for s in range(row_SP.shape[0]):
        row_P = row_SP[s]
        for i in range(len(base_P)):
            row_P[i] -= base_P[i]


@compiled
def add_scaled(total_P, row_P, factor):
    """total += factor * row, in place."""
    for i in range(len(row_P)):
        total_P[i] += factor * row_P[i]


@compiled
def variance(row_SP, out_P):
    """Population variance over the models: [P]. Taken about the first model, so that rows that
    are exactly equal give exactly 0."""
    models, size = row_SP.shape
    share = ONE / np.float32(models)
    mean = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        first = row_SP[0, start:stop]
        out = out_P[start:stop]
        width = stop - start
        for i in range(width):
            mean[i] = ZERO
        for s in range(1, models):
            row = row_SP[s, start:stop]
            for i in range(width):
                mean[i] += row[i] - first[i]
        for i in range(width):
            mean[i] *= share
            out[i] = mean[i] * mean[i]
        for s in range(1, models):
            row = row_SP[s, start:stop]
            for i in range(width):
                distance = (row[i] - first[i]) - mean[i]
                out[i] += distance * distance
        for i in range(width):
            out[i] *= share


@compiled
def count_leading(bits_P, histogram_T):
    """Add up how often each leading part of a magnitude occurs: [TURNS, 65536].

    TURNS counters of each value take turns: deltas have many zeros and few different values, and an
    increment has to wait for the one before it at the same counter.
    """
    h0, h1, h2, h3 = histogram_T
    size = len(bits_P)
    whole = size - size % 4
    for i in range(0, whole, 4):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += 1
        h1[(bits_P[i + 1] & MAGNITUDE) >> LEADING_SHIFT] += 1
        h2[(bits_P[i + 2] & MAGNITUDE) >> LEADING_SHIFT] += 1
        h3[(bits_P[i + 3] & MAGNITUDE) >> LEADING_SHIFT] += 1
    for i in range(whole, size):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += 1


@compiled
def count_leading_twice(bits_P, histogram_T):
    """`count_leading`, and in the upper 32 bits of a counter how many of them have trailing bits
    that are not all 0. For up to 2^34 positions."""
    h0, h1, h2, h3 = histogram_T
    size = len(bits_P)
    whole = size - size % 4
    for i in range(0, whole, 4):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i])
        h1[(bits_P[i + 1] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i + 1])
        h2[(bits_P[i + 2] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i + 2])
        h3[(bits_P[i + 3] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i + 3])
    for i in range(whole, size):
        h0[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += _twice(bits_P[i])


@compiled
def _twice(number):
    uneven = (number & np.uint32(0x7FFF)) != np.uint32(0)
    return IN_BOTH if uneven else np.int64(1)


@compiled
def sum_leading(bits_P, value_P, total):
    """Add up the values by the leading part of their magnitude."""
    for i in range(len(bits_P)):
        total[(bits_P[i] & MAGNITUDE) >> LEADING_SHIFT] += np.float64(value_P[i])


@compiled
def count_trailing(bits_P, leading, histogram_T):
    """Among the magnitudes with this leading part: how often each trailing part occurs: [TURNS,
    32768 + 256]. What has another one is counted in the last 256 places: a branch would often be
    guessed wrong, and one place for all would be waited for."""
    h0, h1, h2, h3 = histogram_T
    size = len(bits_P)
    whole = size - size % 4
    for i in range(0, whole, 4):
        h0[_trailing(bits_P[i], leading)] += 1
        h1[_trailing(bits_P[i + 1], leading)] += 1
        h2[_trailing(bits_P[i + 2], leading)] += 1
        h3[_trailing(bits_P[i + 3], leading)] += 1
    for i in range(whole, size):
        h0[_trailing(bits_P[i], leading)] += 1


@compiled
def _trailing(number, leading):
    bits = number & MAGNITUDE
    inside = bits >> LEADING_SHIFT == leading
    return (
        (bits & np.uint32(0x7FFF))
        if inside
        else np.uint32(0x8000) + ((bits >> LEADING_SHIFT) & np.uint32(0xFF))
    )


@compiled
def count_equal(bits_P, wanted):
    """How many magnitudes have exactly these bits."""
    found = np.uint32(0)
    for i in range(len(bits_P)):
        found += np.uint32((bits_P[i] & MAGNITUDE) == wanted)
    return found


@compiled
def gather_between(bits_P, low, high, out):
    """The magnitudes in [low, high], in order, into `out`, which has one place more than there are
    positions; returns how many."""
    found = 0
    for i in range(len(bits_P)):
        bits = bits_P[i] & MAGNITUDE
        out[found] = bits  # without a branch, which would often be guessed wrong
        found += low <= bits <= high
    return found


@compiled
def keep_from(bits_P, lowest, mask_P):
    """mask = the magnitudes of at least `lowest`."""
    for i in range(len(bits_P)):
        mask_P[i] = (bits_P[i] & MAGNITUDE) >= lowest


@compiled
def keep_some(bits_P, border, ties, mask_P):
    """mask = the magnitudes above `border`, and the first `ties` of those that equal it."""
    for i in range(len(bits_P)):
        bits = bits_P[i] & MAGNITUDE
        tie = bits == border and ties > 0
        mask_P[i] = bits > border or tie
        if tie:
            ties -= 1


@compiled
def clear(row_P, mask_P):
    """Set what the mask leaves out to 0, in place."""
    for i in range(len(row_P)):
        row_P[i] = row_P[i] if mask_P[i] else ZERO


@compiled
def clear_outside(row_P, smallest, above):
    """Set what has a magnitude under `smallest`, or of `above` and more, to 0, in place."""
    for i in range(len(row_P)):
        size = abs(row_P[i])
        row_P[i] = row_P[i] if (size >= smallest and size < above) else ZERO


@compiled
def clear_below(row_P, smallest):
    """Set what has a magnitude under `smallest` to 0, in place."""
    for i in range(len(row_P)):
        row_P[i] = row_P[i] if abs(row_P[i]) >= smallest else ZERO


@compiled
def sum_of_products(a_P, b_P):
    """sum a b, float64."""
    lane = np.zeros(LANES)
    size = len(a_P)
    whole = size - size % LANES
    for start in range(0, whole, LANES):
        a = a_P[start : start + LANES]
        b = b_P[start : start + LANES]
        for i in range(LANES):
            lane[i] += np.float64(a[i]) * np.float64(b[i])
    for i in range(size - whole):
        lane[i] += np.float64(a_P[whole + i]) * np.float64(b_P[whole + i])
    total = 0.0
    for i in range(LANES):
        total += lane[i]
    return total


@compiled
def sum_of_magnitudes(row_P):
    """sum |x|, float64."""
    lane = np.zeros(LANES)
    size = len(row_P)
    whole = size - size % LANES
    for start in range(0, whole, LANES):
        row = row_P[start : start + LANES]
        for i in range(LANES):
            lane[i] += np.float64(abs(row[i]))
    for i in range(size - whole):
        lane[i] += np.float64(abs(row_P[whole + i]))
    total = 0.0
    for i in range(LANES):
        total += lane[i]
    return total


@compiled
def gram(row_SP, out_SS):
    """Add the inner products of the rows: out += row row^T, float64."""
    for s in range(row_SP.shape[0]):
        for r in range(s + 1):
            product = sum_of_products(row_SP[s], row_SP[r])
            out_SS[s, r] += product
            if r != s:
                out_SS[r, s] += product


@compiled
def root_moments(variance_P, centre, total):
    """Add #{v > 0}, and the sums of x, x^2, x^3 with x = sqrt(v) - centre where v > 0."""
    lane = np.zeros((4, LANES))
    size = len(variance_P)
    for start in range(0, size, LANES):
        width = min(LANES, size - start)
        row = variance_P[start : start + width]
        for i in range(width):
            positive = row[i] > ZERO
            x = np.float64(np.sqrt(row[i])) - centre
            x = x if positive else 0.0
            lane[0, i] += np.float64(positive)
            lane[1, i] += x
            lane[2, i] += x * x
            lane[3, i] += x * x * x
    for k in range(4):
        for i in range(LANES):
            total[k] += lane[k, i]


@compiled
def add_weighted(base_P, row_SP, weight_S, normalize, scale, out_P):
    """out = base + scale * sum_s w_s row_s, divided by sum_s w_s if `normalize`."""
    models, size = row_SP.shape
    divisor = ZERO
    for s in range(models):
        divisor += weight_S[s]
    if not normalize:
        divisor = ONE
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        out = out_P[start:stop]
        base = base_P[start:stop]
        for i in range(stop - start):
            out[i] = ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            weight = weight_S[s]
            for i in range(stop - start):
                out[i] += weight * row[i]
        for i in range(stop - start):
            out[i] = base[i] + scale * (out[i] / divisor)


@compiled
def add_agreeing(base_P, row_SP, vote_S, weight_S, normalize, scale, out_P):
    """out = base + scale * sum of w_s row_s over the entries that have the majority's sign.

    The majority sign of a position is that of sum_s vote_s row_s; a sum of exactly 0 elects plus,
    and an entry of 0 never agrees. `normalize` divides by the weights that agree.
    """
    models, size = row_SP.shape
    elected = np.empty(TILE, np.float32)
    divisor = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        width = stop - start
        out = out_P[start:stop]
        base = base_P[start:stop]
        for i in range(width):
            elected[i] = ZERO
            divisor[i] = ZERO
            out[i] = ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            vote = vote_S[s]
            for i in range(width):
                elected[i] += vote * row[i]
        for s in range(models):
            row = row_SP[s, start:stop]
            vote = vote_S[s]
            weight = weight_S[s]
            for i in range(width):
                x = vote * row[i]
                agrees = (x > ZERO) if elected[i] >= ZERO else (x < ZERO)
                out[i] += weight * row[i] if agrees else ZERO
                divisor[i] += weight if agrees else ZERO
        for i in range(width):
            small = not normalize or divisor[i] == ZERO
            out[i] = base[i] + scale * (out[i] / (ONE if small else divisor[i]))


@compiled
def count_overlaps(row_SP, epsilon, found_2S):
    """Add, per model, how many entries above epsilon others share, and how many are alone."""
    models, size = row_SP.shape
    for i in range(size):
        active = 0
        for s in range(models):
            active += abs(row_SP[s, i]) > epsilon
        for s in range(models):
            if abs(row_SP[s, i]) > epsilon:
                found_2S[0 if active > 1 else 1, s] += 1


@compiled
def add_overlapping(base_P, row_SP, epsilon, alone_S, out_P):
    """out = base + mean of the entries above epsilon; one that stands alone counts alone_s."""
    models, size = row_SP.shape
    count = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        width = stop - start
        out = out_P[start:stop]
        base = base_P[start:stop]
        for i in range(width):
            count[i] = ZERO
            out[i] = ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            for i in range(width):
                count[i] += ONE if abs(row[i]) > epsilon else ZERO
        for s in range(models):
            row = row_SP[s, start:stop]
            for i in range(width):
                factor = alone_S[s] if count[i] == ONE else ONE
                out[i] += factor * row[i] if abs(row[i]) > epsilon else ZERO
        for i in range(width):
            out[i] = base[i] + out[i] / max(count[i], ONE)


@compiled
def mix(number):
    """64 well-mixed bits of a 64-bit number: the finalizer of SplitMix64 (Steele et al. 2014)."""
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


@compiled
def draw(seed, start, out_P):
    """Uniform draws in [0, 1), 24 bits each: a function of seed and position alone, so that
    neither blocks nor threads can change them."""
    for i in range(len(out_P)):
        number = mix(np.uint64(seed) + np.uint64(start + i) * np.uint64(0x9E3779B97F4A7C15))
        out_P[i] = np.float32(number >> np.uint64(40)) * np.float32(5.9604644775390625e-08)


@compiled
def keep_drawn(row_P, draw_P, chance, factor):
    """Keep an entry where its draw is under `chance`, times `factor`; else 0. In place."""
    for i in range(len(row_P)):
        row_P[i] = row_P[i] * factor if draw_P[i] < chance else ZERO


@compiled
def keep_by_rank(key_RN, draw_RN, row_RN, lowest, highest, rescale):
    """Keep the entry of rank r in its row with the chance lowest + (highest - lowest) r / (N - 1).

    key_RN: magnitude bits << 32 | position, sorted along each row. rescale divides what is kept by
    its chance. In place.
    """
    rows, size = row_RN.shape
    step = (highest - lowest) / np.float32(max(size - 1, 1))
    chance = np.empty(size, np.float32)
    for r in range(rows):
        row, draws, keys = row_RN[r], draw_RN[r], key_RN[r]
        for rank in range(size):
            chance[keys[rank] & np.uint64(0xFFFFFFFF)] = lowest + step * np.float32(rank)
        for i in range(size):
            kept = row[i] / (chance[i] if rescale else ONE)
            row[i] = kept if draws[i] < chance[i] else ZERO


@compiled
def rank_keys(row_RN, key_RN):
    """magnitude bits << 32 | position in the row, ready to be sorted."""
    for r in range(row_RN.shape[0]):
        bits = row_RN[r].view(np.uint32)
        for i in range(len(bits)):
            key_RN[r, i] = (np.uint64(bits[i] & MAGNITUDE) << np.uint64(32)) | np.uint64(i)
