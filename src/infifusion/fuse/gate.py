"""Who may teach: the gate on bits per byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infifusion.types import Aligned


def gate_by_bits(
    beliefs: Aligned, pivot_bits_N: NDArray[np.float32], *, exempt: int | None = None
) -> Aligned:
    """A source does not teach a response it predicts no better than the pivot does.

    exempt is the place of the pivot itself among the sources, where it takes part: it is never
    shut.

    Better is fewer bits per byte on the gold response. Without the gate a narrow source destroys
    the pivot's other domains. Ours; FuseChat (arXiv 2402.16107 v4) chooses by MinCE between pivot
    and source in the same spirit. A source whose bits are NaN never teaches.
    """
    better_SN = beliefs.bits_SN < pivot_bits_N[None, :]
    if exempt is not None:
        better_SN[exempt] = True
    return replace(beliefs, aligned_ST=beliefs.aligned_ST & better_SN[:, beliefs.example_T])
