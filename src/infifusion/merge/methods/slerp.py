"""Spherical interpolation between two models."""

from __future__ import annotations

import math

import numpy as np

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.combination import combination, inner_products
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods.method import Method
from infifusion.strict import Strict

# Beyond this cosine the two directions are taken as one line and interpolated linearly.
NEARLY_PARALLEL = 0.9995
# A shorter vector has no direction.
SMALLEST_NORM = 1e-8


class Params(Strict):
    """Parameters of `slerp`."""

    t: float
    """0 gives the base (or the first model), 1 the other one."""


def slerp(blocks: Blocks, params: Params) -> Merged:
    """sin((1-t) a)/sin(a) v0 + sin(t a)/sin(a) v1, a the angle between v0 and v1.

    v0 is the base and v1 the one model, or v0, v1 are the two models where there is no base.
    Linear interpolation where they are nearly parallel. Shoemake 1985. Raises ValueError for
    another number of models.
    """
    ends = len(blocks.models) + (blocks.base is not None)
    if ends != 2:
        raise ValueError(
            f"slerp goes between two models; found {ends}. Give a base and one model, or two "
            "models and no base."
        )
    products = inner_products(blocks, of="models" if blocks.base is None else "ends")
    norms = np.sqrt(np.diag(products))
    first, second, cosine = arc(products[0, 1], norms[0], norms[1], params.t)
    if blocks.base is None:
        return combination(blocks, np.array([first, second]), cosine=cosine)
    return combination(blocks, np.array([second]), base=first, cosine=cosine)


def arc(product: float, first: float, second: float, t: float) -> tuple[float, float, float]:
    """Coefficients of both ends, and the cosine between them."""
    if min(first, second) <= SMALLEST_NORM:
        return 1 - t, t, 0.0
    cosine = min(max(product / (first * second), -1.0), 1.0)
    if abs(cosine) > NEARLY_PARALLEL:
        return 1 - t, t, cosine
    angle = math.acos(cosine)
    return (
        math.sin((1 - t) * angle) / math.sin(angle),
        math.sin(t * angle) / math.sin(angle),
        cosine,
    )


SLERP = Method(
    slerp,
    Params,
    line="Spherical interpolation between two models.",
    paper="Shoemake 1985",
    base="optional",
    nanoseconds=3.0,
)
