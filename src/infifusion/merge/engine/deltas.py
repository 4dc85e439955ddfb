"""How far distilled pivots moved from the pivot, and how far in one direction: for the report.

Axes: S models.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from infifusion.merge.blocks import kernels
from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.engine.diff import measure_tensors
from infifusion.merge.engine.models import Model


def deltas(base: Model, models: list[Model]) -> list[dict[str, Any]]:
    """Per tensor: name, numel, `base_norm`, `norm` of every model's change, and `cosine` between
    the changes of every pair (a, b), a before b; None where one of them did not change.

    Norms are Euclidean, over the whole tensor, so that their squares add up over tensors. Raises
    CheckpointError as `measure_tensors`.
    """
    return measure_tensors(base, models, _products, title="deltas (tensors)")


def _products(blocks: Blocks) -> dict[str, Any]:
    models = len(blocks.models)

    def add(block: Block, sums: np.ndarray) -> None:
        sums[0] += kernels.sum_of_products(block.base_P, block.base_P)
        kernels.gram(block.delta_SP, sums[1:].reshape(models, models))

    sums = blocks.total(add, np.zeros(1 + models**2))
    norm_S = np.sqrt(np.diag(sums[1:].reshape(models, models)))
    product_SS = sums[1:].reshape(models, models)
    return {
        "base_norm": float(np.sqrt(sums[0])),
        "norm": norm_S.tolist(),
        "cosine": [
            float(product_SS[a, b] / (norm_S[a] * norm_S[b])) if norm_S[a] and norm_S[b] else None
            for a, b in combinations(range(models), 2)
        ],
    }
