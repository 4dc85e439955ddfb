"""Batches by hand, and against the code that makes them."""

from __future__ import annotations

import numpy as np
import pytest

from infifusion.estimate.costs.lengths import Lengths
from infifusion.teacher.forward import batches
from infifusion.types import Rendered


def test_batches_of_the_teacher_pass_by_hand() -> None:
    found = Lengths(4, 20, 12, [2, 4, 6, 8]).by_length(shard_examples=4, batch_tokens=16)
    # 8 and 6 fit 16 // 8 = 2 to a batch, padded to 8; then 4 and 2, padded to 4.
    assert found == (2, 2 * 8 + 2 * 4, 2 * 8**2 + 2 * 4**2)


def test_batches_are_those_of_the_teacher_pass() -> None:
    rng = np.random.default_rng(0)
    length_N = rng.integers(3, 60, 50)
    offset_N1 = np.concatenate([[0], np.cumsum(length_N)])
    rendered = Rendered(
        ids_L=np.zeros(offset_N1[-1], np.int32),
        offset_N1=offset_N1,
        first_N=np.ones(50, np.int32),
        start_R=np.zeros(0, np.int32),
        row_N1=np.zeros(51, np.int64),
    )
    sizes = [(len(b), int(length_N[b].max())) for b in batches(rendered, 0, 50, 128)]
    found = Lengths(50, length_N.sum(), 0, sorted(length_N.tolist())).by_length(50, 128)
    assert found.calls == len(sizes)
    assert found.tokens == sum(b * longest for b, longest in sizes)
    assert found.token_context == sum(b * longest**2 for b, longest in sizes)


def test_shards_and_the_last_part_of_one_add_up() -> None:
    whole = Lengths(10, 50, 20, [5] * 10).by_length(shard_examples=4, batch_tokens=10)
    # Shards of 4, 4 and 2 examples, two to a batch: 2 + 2 + 1 batches, nothing padded.
    assert whole == (5, 50, 250)


def test_expected_longest_by_hand() -> None:
    lengths = Lengths(2, 4, 2, [1, 3])
    # Two draws: both are 1 in a quarter of the cases, the longest is 3 in the others.
    assert lengths.longest_of(2) == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert lengths.longest_of(1) == pytest.approx(2)


def test_random_batches_pad_to_the_expected_longest() -> None:
    found = Lengths(2, 4, 2, [1, 3]).at_random(6, 2)
    assert found.calls == 3 and found.tokens == pytest.approx(3 * 2 * 2.5)


def test_no_examples_make_no_batches() -> None:
    assert Lengths(0, 0, 0, []).by_length(8, 8) == (0, 0, 0)
