"""The temperature at which a source's probabilities fit the text best (calibration).

    T* = argmin_T of the mean over response tokens of -log softmax(logits / T)[token]

Guo et al. 2017, arXiv 1706.04599: one number per model, which changes no ranking, only how sure the
model says it is. T above 1 makes an overconfident source less sure.
Axes: C positions of a chunk, V vocabulary, G temperatures of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from infifusion.teacher.forward import Teacher, batches, require_finite, response_logits
from infifusion.types import Rendered

# From 1/4 to 8, six to the octave, so that 1 is among them. The parabola between three of them is
# within 0.5 % of the minimum in T (tests/teacher/test_temperature.py).
GRID = 2.0 ** (np.arange(-12, 19) / 6)


@dataclass(frozen=True)
class Fitted:
    """A fitted temperature.

    nats, nats_at_1: nats per response token at it, and at temperature 1. positions: response tokens
    it was fitted on. at_the_end: the first or last temperature of the grid was the best, so the
    minimum lies outside it.
    """

    temperature: float
    nats: float
    nats_at_1: float
    positions: int
    at_the_end: bool


@torch.inference_mode()
def fit_temperature(teacher: Teacher, rendered: Rendered, *, names: list[str]) -> Fitted:
    """One pass over all examples of `rendered` (at least one), from full logits.

    Raises NumericsError naming the example where a token's log-probability is not finite.
    """
    if teacher.temperature != 1.0:
        raise ValueError(f"expected a teacher at temperature 1, found {teacher.temperature}")
    total_G = np.zeros(len(GRID))
    for batch in batches(rendered, 0, len(rendered), teacher.batch_tokens):
        for logits_CV, gold_C, row_C in response_logits(teacher, rendered, batch):
            nats_GC = gold_nats(logits_CV, gold_C, GRID)
            del logits_CV  # before the next chunk's are made
            require_finite(nats_GC.sum(axis=0), row_C, rendered, names, teacher)
            total_G += nats_GC.sum(axis=1)
    positions = len(rendered.start_R)
    nats_G = total_G / positions
    temperature, nats = lowest(GRID, nats_G)
    return Fitted(
        temperature=temperature,
        nats=nats,
        nats_at_1=float(nats_G[GRID == 1.0][0]),
        positions=positions,
        at_the_end=int(np.argmin(nats_G)) in (0, len(GRID) - 1),
    )


def gold_nats(
    logits_CV: torch.Tensor, gold_C: torch.Tensor, temperature_G: NDArray[np.float64]
) -> NDArray[np.float64]:
    """-log softmax(logits / T)[gold] of every position at every temperature, [G, C]. Uses up the
    logits: what is subtracted from them stays subtracted."""
    # Relative to the gold logit, so that a small result is no difference of large numbers.
    logits_CV.sub_(logits_CV.gather(1, gold_C[:, None]))
    nats = [(logits_CV / float(t)).logsumexp(dim=1).cpu().numpy() for t in temperature_G]
    return np.stack(nats).astype(np.float64)


def lowest(temperature_G: NDArray[np.float64], nats_G: NDArray[np.float64]) -> tuple[float, float]:
    """The lowest point of the parabola in log T through the best of evenly spaced (in log T)
    temperatures and its two neighbours; the best itself where it is the first or last."""
    best = int(np.argmin(nats_G))
    if best in (0, len(nats_G) - 1):
        return float(temperature_G[best]), float(nats_G[best])
    left, middle, right = nats_G[best - 1 : best + 2]
    bend = left - 2 * middle + right
    if bend <= 0:  # three equal values: no temperature is better than another
        return float(temperature_G[best]), float(middle)
    # Through (-1, left), (0, middle), (1, right), in steps of the grid.
    steps = (left - right) / (2 * bend)
    ratio = temperature_G[best + 1] / temperature_G[best]
    return float(temperature_G[best] * ratio**steps), float(
        middle - (left - right) ** 2 / (8 * bend)
    )
