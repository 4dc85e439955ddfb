"""Bytes of the files that a run leaves behind.

Formats: safetensors (8 bytes, a JSON header padded to 8, the arrays), .npy (128 bytes, the array),
Hugging Face checkpoint folders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LOW_BITS = 16
"""Bits of a token id that the teacher's cache keeps apart from those beyond (teacher/cache.py)."""

NPY_HEADER = 128
# model.save_pretrained leaves config.json and generation_config.json; tokenizers come on top.
CONFIG_FILES = 1_500
# A line of merge_details.json per tensor, written beside the weights and in the stage's folder.
MERGE_DETAIL = 2 * 260
# One judged item: its prompt, output and verdict.
ITEM = 2_500

Arrays = Mapping[str, tuple[str, int, Sequence[int]]]


def cache_row(top_k: int, vocabulary: int) -> int:
    """Bytes per position of the teacher's cache; vocabulary is the source's."""
    arrays = cache_arrays(1, top_k, vocabulary)
    return sum(size * math.prod(shape) for _, size, shape in arrays.values())


def cache_arrays(
    rows: int, top_k: int, vocabulary: int
) -> dict[str, tuple[str, int, tuple[int, ...]]]:
    """The arrays of a shard: name -> (dtype, bytes of an element, shape)."""
    beyond = max(0, (vocabulary - 1).bit_length() - LOW_BITS)
    scalars = ("gold_U", "entropy_U", "lse_U", "mean_U", "std_U")
    return {
        "low_UK": ("U16", 2, (rows, top_k)),
        "high_UH": ("U8", 1, (rows, -(-top_k * beyond // 8))),
        "logprob_UK": ("F16", 2, (rows, top_k)),
        **{name: ("F32", 4, (rows,)) for name in scalars},
    }


def cache_bytes(
    positions: float, *, examples: int, shard_examples: int, top_k: int, vocabulary: int
) -> float:
    """All shards of one source: rows and headers."""
    shards = max(1, -(-examples // shard_examples))
    full = positions * min(1.0, shard_examples / max(examples, 1))
    last = positions - (shards - 1) * full
    headers = [header_bytes(cache_arrays(round(rows), top_k, vocabulary)) for rows in (full, last)]
    return positions * cache_row(top_k, vocabulary) + (shards - 1) * headers[0] + headers[1]


def header_bytes(arrays: Arrays) -> int:
    """Bytes before the first array of a safetensors file; largest dtype first, then by name."""
    offset, entries = 0, []
    for name, (dtype, size, shape) in sorted(arrays.items(), key=lambda a: (-a[1][1], a[0])):
        count = size * math.prod(shape)
        numbers = ",".join(map(str, shape))
        entries.append(
            f'"{name}":{{"dtype":"{dtype}","shape":[{numbers}],'
            f'"data_offsets":[{offset},{offset + count}]}}'
        )
        offset += count
    length = len("{" + ",".join(entries) + "}")
    return 8 + length + (-length) % 8


def target_bytes(positions: float, *, sources: int, keep: int, top_k: int) -> float:
    """The arrays of one fused target (types.Target): ids and probabilities of `keep` entries, a
    weight per source, K standardised logits; four bytes each."""
    return positions * 4 * (2 * keep + sources + top_k) + 4 * NPY_HEADER


def rendered_bytes(tokens: float, positions: float, examples: int) -> float:
    """One model's rendering of one split (types.Rendered)."""
    arrays = {
        "ids_L": ("I32", 4, (round(tokens),)),
        "offset_N1": ("I64", 8, (examples + 1,)),
        "first_N": ("I32", 4, (examples,)),
        "start_R": ("I32", 4, (round(positions),)),
        "row_N1": ("I64", 8, (examples + 1,)),
    }
    return header_bytes(arrays) + sum(size * count for _, size, (count,) in arrays.values())


def examples_bytes(tokens: float, examples: int) -> float:
    """The examples of a split as JSON lines: four bytes of text a token, and their keys."""
    return 4 * tokens + 110 * examples


def checkpoint_bytes(parameters: float, *, bytes_each: float, header: int, tokenizer: int) -> float:
    """A saved model: weights, their header, configs, tokenizer."""
    return parameters * bytes_each + header + CONFIG_FILES + tokenizer


def training_state_bytes(parameters: float, trainable: float, *, adapters: bool) -> float:
    """A checkpoint in mid-training: float32 weights (of the adapters alone, where there are some)
    and the two moments of Adam."""
    return (4 * trainable if adapters else 4 * parameters) + 8 * trainable
