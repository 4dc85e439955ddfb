"""Causal posterior of a mixture of sources: one that was wrong on this text loses its vote."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from infifusion.fuse.by_example import latest_by_example, teaches_example
from infifusion.fuse.mixture import mix, normalise, only_aligned
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """Parameters of `bayes`."""

    forgetting: float = Field(default=0.99, gt=0, le=1)
    """Factor per byte by which old evidence fades; 1 never forgets."""
    prior: list[float] | None = None
    """Prior weight of each source, in the target's order of sources; equal by default."""


def bayes(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """w_s proportional to prior_s * exp(sum of forgetting^age * log p_s(earlier tokens)).

    The sum runs over the source's tokens that end at or before the position's byte, age in
    bytes; log-probabilities of the same bytes are comparable across tokenizers. At the first
    position the weights are the prior. Between boundaries that all sources share the weights
    stay as they were, and `only_aligned` says who teaches. Ours, beyond the paper. Raises
    ValueError when the prior does not fit the number of sources.
    """
    sources = len(aligned.aligned_ST)
    prior_S = np.ones(sources) if params.prior is None else np.asarray(params.prior, dtype=float)
    if len(prior_S) != sources or (prior_S <= 0).any():
        raise ValueError(
            f"bayes: expected {sources} positive prior weights, one per source "
            f"(pivot_as_source counts as the last); found {params.prior}."
        )
    teaches_ST = teaches_example(aligned.aligned_ST, aligned.example_T)
    log_prior_ST = np.broadcast_to(np.log(prior_S)[:, None], teaches_ST.shape)
    score_ST = aligned.evidence(params.forgetting) + log_prior_ST
    # Evidence is compared where it is about the same bytes: at boundaries that all sources share.
    shared_T = np.all(aligned.aligned_ST | ~teaches_ST, axis=0)
    posterior_ST, known_T = latest_by_example(
        normalise(score_ST, teaches_ST), shared_T, aligned.example_T
    )
    whole_ST = np.where(known_T, posterior_ST, normalise(log_prior_ST, teaches_ST))
    return mix(aligned, only_aligned(whole_ST, aligned.aligned_ST), keep=keep)
