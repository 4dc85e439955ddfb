"""Stored values to float32 and back. Axes: S models, P positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infifusion.merge.blocks.compiled import MAGNITUDE, compiled

INFINITE = np.uint32(0x7F800000)
OTHERS = {"F64": np.float64, "F16": np.float16}


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
    """float32 bits to bfloat16 bits, to the nearest, ties to even; NaN stays NaN. Returns how many
    become NaN or Inf."""
    bad = np.uint32(0)
    for i in range(len(bits_P)):
        x = bits_P[i]
        even = (x >> np.uint32(16)) & np.uint32(1)
        rounded = (x + np.uint32(0x7FFF) + even) >> np.uint32(16)
        quiet = (x >> np.uint32(16)) | np.uint32(0x40)
        raw = np.uint16(quiet if (x & MAGNITUDE) > INFINITE else rounded)
        raw_P[i] = raw
        bad += np.uint32((raw & np.uint16(0x7F80)) == np.uint16(0x7F80))
    return bad


@compiled
def count_not_finite(bits_P):
    """How many of the float32 are NaN or Inf."""
    found = np.uint32(0)
    for i in range(len(bits_P)):
        found += np.uint32((bits_P[i] & MAGNITUDE) >= INFINITE)
    return found


@compiled
def count_not_finite_bfloat16(raw_P):
    """How many of the bfloat16 are NaN or Inf."""
    found = np.uint32(0)
    for i in range(len(raw_P)):
        found += np.uint32((raw_P[i] & np.uint16(0x7F80)) == np.uint16(0x7F80))
    return found


@compiled
def subtract(row_SP, base_P):
    """row -= base, in place."""
    for s in range(row_SP.shape[0]):
        row_P = row_SP[s]
        for i in range(len(base_P)):
            row_P[i] -= base_P[i]


def decode(
    parts: list[np.ndarray], dtypes: list[str], out_SP: np.ndarray, base_P: np.ndarray | None
) -> int:
    """Stored values of S models to float32 in out_SP, minus the base where it is given. Returns
    the number of the first model that holds NaN or Inf, or -1."""
    bits_SP = out_SP.view(np.uint32)
    if all(dtype == "BF16" for dtype in dtypes) and alike(parts):
        if base_P is None:
            return decode_rows(tuple(parts), bits_SP)
        return decode_deltas(tuple(parts), base_P, bits_SP, out_SP)
    bad = -1
    for s, (part, dtype) in enumerate(zip(parts, dtypes, strict=True)):
        if dtype == "BF16":
            decode_bfloat16(part, bits_SP[s])
        else:
            out_SP[s] = part
        if bad < 0 and count_not_finite(bits_SP[s]):
            bad = s
    if base_P is not None:
        subtract(out_SP, base_P)
    return bad


def alike(arrays: Sequence[np.ndarray]) -> bool:
    """Whether a compiled loop takes the arrays as one tuple: to numba an array that must not be
    written, or that begins between two multiples of its element's size, is of another type."""
    return len({(one.flags.writeable, one.flags.aligned) for one in arrays}) < 2


def encode(merged_P: np.ndarray, dtype: str) -> np.ndarray:
    """float32 in the storage dtype: rounded to the nearest, ties to even."""
    if dtype == "BF16":
        raw_P = np.empty(len(merged_P), np.uint16)
        encode_bfloat16(merged_P.view(np.uint32), raw_P)
        return raw_P
    if dtype == "F32":
        return merged_P
    with np.errstate(over="ignore", invalid="ignore"):  # Inf is looked for, and named, afterwards
        return merged_P.astype(OTHERS[dtype])


def encode_checked(merged_P: np.ndarray, dtype: str) -> tuple[np.ndarray, int]:
    """`encode`, and how many are NaN or Inf then."""
    if dtype != "BF16":
        stored_P = encode(merged_P, dtype)
        return stored_P, not_finite(stored_P, dtype)
    raw_P = np.empty(len(merged_P), np.uint16)
    return raw_P, int(encode_bfloat16(merged_P.view(np.uint32), raw_P))


def not_finite(stored_P: np.ndarray, dtype: str) -> int:
    """How many stored values are NaN or Inf."""
    if dtype == "BF16":
        return int(count_not_finite_bfloat16(stored_P))
    return int(stored_P.size - np.count_nonzero(np.isfinite(stored_P)))
