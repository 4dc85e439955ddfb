"""Gates: which source may teach which example, by bits per byte.

Axes: S sources, N examples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infifusion.types import Aligned


def better_on_response(
    bits_SN: NDArray[np.float32], pivot_bits_N: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Gate `bits_per_byte`: where a source predicts the response in fewer bits per byte than the
    pivot does: [S, N]. A source whose bits are NaN is not better.

    Without a gate a narrow source destroys the pivot's other domains. Ours; FuseChat (arXiv
    2402.16107 v4) chooses by MinCE between pivot and source in the same spirit. It trusts the
    response: a wrong label shuts the source that knows better.
    """
    return bits_SN < pivot_bits_N[None, :]


def better_in_domain(
    bits_SN: NDArray[np.float32], pivot_bits_N: NDArray[np.float32], domains: list[str]
) -> NDArray[np.bool_]:
    """Gate `domain`: the responses of the domains in which a source beats the pivot on more than
    half of the responses: [S, N].

    A majority, not a mean: a sure source pays many bits for a wrong label, and as long as most
    labels are right that does not shut it. Ours.
    """
    better_SN = better_on_response(bits_SN, pivot_bits_N)
    of, open_SN = np.asarray(domains), np.zeros_like(better_SN)
    for domain in sorted(set(domains)):
        here_N = of == domain
        open_SN[:, here_N] = better_SN[:, here_N].mean(axis=1, keepdims=True) > 0.5
    return open_SN


def shut(aligned: Aligned, open_SN: NDArray[np.bool_], *, exempt: int | None = None) -> Aligned:
    """The aligned rows without those of sources that may not teach the example.

    exempt is the place of the pivot itself among the sources, where it takes part: it is never
    shut.
    """
    if exempt is not None:
        open_SN = open_SN.copy()
        open_SN[exempt] = True
    return replace(aligned, aligned_ST=aligned.aligned_ST & open_SN[:, aligned.example_T])
