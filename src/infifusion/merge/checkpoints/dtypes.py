"""The dtypes of safetensors files, by the names the format gives them, as NumPy reads them."""

from __future__ import annotations

import numpy as np

# bfloat16, which NumPy lacks, is read as its bits.
STORED = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# The words of recipes, configs and torch.
BY_NAME = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
NAME_OF = {stored: name for name, stored in BY_NAME.items()}


def bytes_of(dtype: str) -> int:
    """Bytes of one element."""
    return np.dtype(STORED[dtype]).itemsize
