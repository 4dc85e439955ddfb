"""How many positions of a text two tokenizers have in common, before any model is run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Coverage:
    """aligned / positions is the share of pivot tokens whose first byte is also the first byte of
    a source token; worst lists (pivot id, times unaligned, times seen), most often unaligned
    first."""

    positions: int
    aligned: int
    worst: list[tuple[int, int, int]]

    @property
    def share(self) -> float:
        """aligned over positions; 0 for an empty text."""
        return self.aligned / self.positions if self.positions else 0.0


def coverage(
    source_T: NDArray[np.int64], gold_T: NDArray[np.int32], *, worst: int = 20
) -> Coverage:
    """Count aligned positions and the pivot tokens that are unaligned most often.

    source_T is what `boundaries.match` gives (-1 where unaligned), gold_T the pivot's token ids.
    """
    aligned_T = source_T >= 0
    missed = Counter(gold_T[~aligned_T].tolist())
    seen = Counter(gold_T.tolist())
    order = sorted(missed, key=lambda token: (-missed[token], token))[:worst]
    return Coverage(
        positions=len(gold_T),
        aligned=int(aligned_T.sum()),
        worst=[(token, missed[token], seen[token]) for token in order],
    )
