from __future__ import annotations

import numpy as np
import pytest

from infifusion.teacher.cache import high_bits, pack_ids, unpack_ids


@pytest.mark.parametrize("vocabulary", [1, 53, 65_536, 65_537, 131_072, 151_936, 262_145, 1 << 24])
def test_ids_come_back(vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    for entries in (1, 3, 10):
        ids_UK = rng.integers(0, vocabulary, (200, entries)).astype(np.int32)
        ids_UK[0], ids_UK[1] = 0, vocabulary - 1
        low_UK, high_UH = pack_ids(ids_UK, vocabulary)
        assert np.array_equal(unpack_ids(low_UK, high_UH, high_bits(vocabulary)), ids_UK)


def test_ids_take_the_bytes_that_their_vocabulary_needs() -> None:
    # 151,936 needs 18 bits: 2 beyond 16, for 10 entries 20 bits, which are 3 bytes.
    def taken(vocabulary: int) -> int:
        low_UK, high_UH = pack_ids(np.zeros((1, 10), np.int32), vocabulary)
        return low_UK.nbytes + high_UH.nbytes

    assert [taken(v) for v in (32_000, 65_536, 128_256, 151_936, 1 << 20)] == [20, 20, 22, 23, 25]


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    for bad in (-1, 53):
        with pytest.raises(ValueError, match="do not fit a vocabulary of 53"):
            pack_ids(np.asarray([[0, bad]], np.int32), 53)
