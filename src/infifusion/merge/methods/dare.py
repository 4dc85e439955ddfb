"""DARE: drop a random share of each delta and rescale the rest, then add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.deltas import Rescale, sum_deltas
from infifusion.merge.blocks.draws import draw, keep_drawn, mix
from infifusion.merge.blocks.result import Merged, share_per_model
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict


class Params(Strict):
    """Parameters of `dare_linear` and `dare_ties`."""

    weight: float | list[float] = 1.0
    """Weight of each model's delta."""
    density: float | list[float] = 1.0
    """Probability with which an entry is kept."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor on the merged delta."""
    normalize: bool = False
    """Divide by the sum of the weights that take part."""
    rescale: Rescale = True
    """true: divide what is kept by the density, so that its expectation is the delta, as the paper
    does. l1: scale it to the sum of magnitudes the delta had, as mergekit does."""


def dare_linear(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum_s w_s drop(delta_s). arXiv 2311.03099 v3."""
    return _dare(blocks, params, elect_sign=False)


def dare_ties(blocks: Blocks, params: Params) -> Merged:
    """base + lambda * sum over agreeing s of w_s drop(delta_s). arXiv 2311.03099 v3, 2306.01708."""
    return _dare(blocks, params, elect_sign=True)


def _dare(blocks: Blocks, params: Params, *, elect_sign: bool) -> Merged:
    """The draws follow from the seed, the model's number and the position alone."""
    share_S = share_per_model(params.density, len(blocks.models), name="density")
    density_S = share_S.astype(np.float32)

    def drop(block: Block, s: int, delta_P: np.ndarray) -> None:
        density, draw_P = density_S[s], block.empty()
        draw(model_seed(blocks.seed, s), block.start, draw_P)
        rescaled = params.rescale is True and density > 0
        keep_drawn(delta_P, draw_P, density, np.float32(1) / density if rescaled else np.float32(1))

    return sum_deltas(blocks, params, drop, elect_sign=elect_sign, keep_norm=params.rescale == "l1")


def model_seed(seed: int, model: int) -> np.uint64:
    """A stream of draws of its own for each model."""
    return np.uint64(mix(np.uint64((seed + 0x632BE59BD9B4E019 * (model + 1)) % 2**64)))


def rescale_as_mergekit(given: Mapping[str, Any]) -> dict[str, Any]:
    """mergekit restores the sum of magnitudes where the papers divide by the probability."""
    return {"rescale": "l1" if given.get("rescale", True) else False}


DARE_LINEAR = Method(
    dare_linear,
    Params,
    line="DARE: drop a random share of each delta and rescale the rest, then add up.",
    paper="arXiv 2311.03099 v3",
    nanoseconds=3.0,
    as_mergekit=rescale_as_mergekit,
)
DARE_TIES = Method(
    dare_ties,
    Params,
    line="DARE with TIES' sign election.",
    paper="arXiv 2311.03099 v3, 2306.01708 v2",
    nanoseconds=3.0,
    as_mergekit=rescale_as_mergekit,
)
