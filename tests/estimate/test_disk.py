"""Bytes against files that the stages' own code writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from infifusion.data.store import write_rendered
from infifusion.estimate.costs import disk
from infifusion.stages.fuse import target_arrays
from infifusion.teacher.cache import shard_path, write_shard
from infifusion.teacher.forward import _empty
from infifusion.types import Rendered


def test_a_row_of_the_cache_by_hand() -> None:
    # Ten ids of 2 bytes, ten log-probabilities of 2, five float32 scalars.
    assert disk.cache_row(10, 32_000) == 10 * 2 + 10 * 2 + 5 * 4
    # 150,000 ids need 18 bits: 2 beyond 16, for ten of them 20 bits, so 3 bytes.
    assert disk.cache_row(10, 150_000) == 23 + 10 * 2 + 5 * 4


@pytest.mark.parametrize("vocabulary", [320, 151_936])
@pytest.mark.parametrize(("rows", "top_k"), [(1, 1), (977, 10), (12345, 7)])
def test_a_shard_has_exactly_the_bytes_that_are_planned(
    tmp_path: Path, rows: int, top_k: int, vocabulary: int
) -> None:
    write_shard(tmp_path, 0, _empty(rows, top_k, np.float16), vocabulary=vocabulary)
    planned = disk.cache_bytes(
        rows, examples=3, shard_examples=512, top_k=top_k, vocabulary=vocabulary
    )
    assert shard_path(tmp_path, 0).stat().st_size == planned


def test_a_header_has_exactly_the_bytes_that_are_planned(tmp_path: Path) -> None:
    arrays = {"b": np.zeros((3, 5), np.float32), "a": np.zeros(7, np.float16)}
    save_file(arrays, tmp_path / "x")
    planned = disk.header_bytes({"a": ("F16", 2, (7,)), "b": ("F32", 4, (3, 5))})
    assert (tmp_path / "x").stat().st_size == planned + 3 * 5 * 4 + 7 * 2


def test_a_target_has_exactly_the_bytes_that_are_planned(tmp_path: Path) -> None:
    for array in target_arrays(tmp_path, 321, 3, 20, 10).values():
        array.flush()
    written = sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    assert written == disk.target_bytes(321, sources=3, keep=20, top_k=10)


def test_a_rendering_has_exactly_the_bytes_that_are_planned(tmp_path: Path) -> None:
    rendered = Rendered(
        np.zeros(1000, np.int32),
        np.zeros(21, np.int64),
        np.zeros(20, np.int32),
        np.zeros(700, np.int32),
        np.zeros(21, np.int64),
    )
    write_rendered(tmp_path / "x", rendered)
    assert (tmp_path / "x").stat().st_size == disk.rendered_bytes(1000, 700, 20)


def test_the_state_of_training_by_hand() -> None:
    # Float32 weights, two float32 moments each; of adapters alone where there are some.
    assert disk.training_state_bytes(100, 100, adapters=False) == 1200
    assert disk.training_state_bytes(100, 10, adapters=True) == 120
