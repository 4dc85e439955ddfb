"""Uncertainty weighting (UDF): a sure source weighs more, token by token. Our reconstruction."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from infifusion.fuse.by_example import mean_by_example, teaches_example
from infifusion.fuse.mixture import mix, normalise, only_aligned
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """Parameters of `uncertainty` and `uncertainty_logit`."""

    kappa: float = Field(default=1.0, gt=0)
    """Temperature of the weights in nats: small, and the surest source takes all."""
    form: Literal["softmax", "inverse"] = "softmax"
    """softmax: exp(-u / kappa); inverse: 1 / (u + eps)."""
    eps: float = Field(default=0.05, gt=0)
    """Nats added to the entropy in the inverse form."""
    over: Literal["token", "sequence"] = "token"
    """sequence: u is the mean entropy over the source's aligned positions of the response, and the
    weights hold for all of it."""


def uncertainty(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P = sum_s w_s P_s, w_s proportional to exp(-entropy_s / kappa) where s is aligned.

    entropy_s is the full-vocabulary entropy (nats) of the source's own distribution at the
    position, before alignment. Source: InfiFusion, arXiv 2501.02795 v1, "uncertainty-based
    distribution fusion"; the paper's formula is not public to us, so this is our reconstruction.
    Equal entropies give the mean; one source is the identity; an unaligned source has weight 0.
    """
    return mix(aligned, weights(aligned, params), keep=keep)


def weights(aligned: Aligned, params: Params) -> NDArray[np.float32]:
    """The weights alone: [S, T]."""
    if params.over == "token":
        return _of_entropy(aligned.entropy_ST, aligned.aligned_ST, params)
    mean_ST = mean_by_example(aligned.entropy_ST, aligned.aligned_ST, aligned.example_T)
    teaches_ST = teaches_example(aligned.aligned_ST, aligned.example_T)
    return only_aligned(_of_entropy(mean_ST, teaches_ST, params), aligned.aligned_ST)


def _of_entropy(
    entropy_ST: NDArray[np.float32], aligned_ST: NDArray[np.bool_], params: Params
) -> NDArray[np.float32]:
    if params.form == "inverse":
        return normalise(-np.log(entropy_ST + params.eps), aligned_ST)
    return normalise(-entropy_ST / params.kappa, aligned_ST)
