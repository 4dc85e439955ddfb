"""How models differ from a base, tensor by tensor: for `infifusion diff` and for the report.

Axes: S models, P positions of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError
from infifusion.merge.blocks.blocks import Block, Blocks, NotFinite, Raw
from infifusion.merge.blocks.sums import gram, sum_of_products
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.walker import usable_threads
from infifusion.merge.methods.rsaf import raw_powers, skewness
from infifusion.merge.methods.sce import survey
from infifusion.process.bar import progress_bar

MEASURES = {
    "changed": "share of the weights that differ from the base",
    "rms": "RMS of the change relative to the RMS of the base",
    "sign_agreement": "share of the positions several models changed in which all signs agree",
    "cosine": "mean cosine between the models' changes",
    "skewness": "skewness of the standard deviation over the models (RSAF's gamma)",
}


def differences(base: Model, models: list[Model]) -> list[dict[str, Any]]:
    """Per tensor: name, numel, and the MEASURES; `changed` and `rms` have one value per model. None
    where a measure has no meaning: one model, or nothing changed.

    Raises CheckpointError where a model lacks a tensor of the base, has it in another shape, or
    holds NaN or Inf in it.
    """
    return _measured(base, models, _compare, title="diff (tensors)")


def deltas(base: Model, models: list[Model]) -> list[dict[str, Any]]:
    """Per tensor: name, numel, `base_norm`, `norm` of every model's change, and `cosine` between
    the changes of every pair (a, b), a before b; None where one of them did not change.

    Norms are Euclidean, over the whole tensor, so that their squares add up over tensors. Raises
    CheckpointError as `differences` does.
    """
    return _measured(base, models, _distances, title="deltas (tensors)")


def _measured(
    base: Model,
    models: list[Model],
    measure: Callable[[Blocks], dict[str, Any]],
    *,
    title: str,
) -> list[dict[str, Any]]:
    """`measure` of every floating-point tensor of the base, with its name and elements."""
    names = [name for name in base.checkpoint.names if base.checkpoint.dtype(name) in FLOATS]
    for model in models:
        for name in names:
            inner = model.source_of(name)
            if inner not in model.checkpoint:
                raise CheckpointError(
                    f"{model.folder} lacks the tensor {name} of {base.folder}. Give models of one "
                    "architecture, the base first."
                )
            if model.checkpoint.shape(inner) != base.checkpoint.shape(name):
                raise CheckpointError(
                    f"The tensor {name} has shape {list(model.checkpoint.shape(inner))} in "
                    f"{model.folder}, but {list(base.checkpoint.shape(name))} in {base.folder}. "
                    "Give models of one architecture and vocabulary, the base first."
                )
    found = []
    with (
        ThreadPoolExecutor(usable_threads()) as pool,
        progress_bar(title, len(names), "tensors") as meter,
    ):
        for name in names:
            blocks = Blocks(
                Raw(*base.read(name)),
                [Raw(*model.read(model.source_of(name))) for model in models],
                base.checkpoint.shape(name),
                parallel=pool.map,
            )
            try:
                found.append({"name": name, "numel": blocks.size, **measure(blocks)})
            except NotFinite as error:
                which = base if error.source == 0 else models[error.source - 1]
                raise CheckpointError(
                    f"The tensor {name} of {which.folder} holds NaN or Inf. That checkpoint is "
                    "broken; take an earlier one."
                ) from None
            meter.advance()
    return found


def _compare(blocks: Blocks) -> dict[str, Any]:
    models = len(blocks.models)

    def add(block: Block, sums: np.ndarray) -> None:
        delta_SP = block.delta_SP
        sums[:models] += np.count_nonzero(delta_SP, axis=1)
        several_P = np.count_nonzero(delta_SP, axis=0) > 1
        signs_SP = np.sign(delta_SP)
        agree_P = np.abs(signs_SP.sum(axis=0)) == np.abs(signs_SP).sum(axis=0)
        sums[models] += np.count_nonzero(several_P)
        sums[models + 1] += np.count_nonzero(several_P & agree_P)
        sums[models + 2] += sum_of_products(block.base_P, block.base_P)
        gram(delta_SP, sums[models + 3 :].reshape(models, models))

    sums = blocks.total(add, np.zeros(models + 3 + models**2))
    products = sums[models + 3 :].reshape(models, models)
    squares = np.diag(products)
    several, agreeing, base = (float(value) for value in sums[models : models + 3])
    pairs = [
        products[a, b] / np.sqrt(squares[a] * squares[b])
        for a, b in combinations(range(models), 2)
        if squares[a] > 0 and squares[b] > 0
    ]
    spread = survey(blocks) if models > 1 else None
    size = max(blocks.size, 1)
    return {
        "changed": [float(count) / size for count in sums[:models]],
        "rms": [float(np.sqrt(square / base)) if base > 0 else None for square in squares],
        "sign_agreement": agreeing / several if several else None,
        "cosine": float(np.mean(pairs)) if pairs else None,
        "skewness": skewness(raw_powers(spread)) if spread and spread.positive else None,
    }


def _distances(blocks: Blocks) -> dict[str, Any]:
    models = len(blocks.models)

    def add(block: Block, sums: np.ndarray) -> None:
        sums[0] += sum_of_products(block.base_P, block.base_P)
        gram(block.delta_SP, sums[1:].reshape(models, models))

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
