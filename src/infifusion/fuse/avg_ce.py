"""AvgCE of FuseLLM: sources weighted by how well they predict the response."""

from __future__ import annotations

from pydantic import Field

from infifusion.fuse.by_example import teaches_example
from infifusion.fuse.mixture import mix, normalise, only_aligned
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """Parameters of `avg_ce`."""

    kappa: float = Field(default=1.0, gt=0)
    """Temperature in bits per byte. FuseLLM's softmax(exp(-CE)) is nearly a plain mean."""


def avg_ce(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P = sum_s w_s P_s, w_s proportional to exp(-bits_s / kappa), one weight per sequence.

    bits_s is the source's bits per byte on the gold response; `only_aligned` says who teaches
    where a source is not aligned. Source: FuseLLM, arXiv 2401.10491 v2, section 3.2; there
    softmax(exp(-CE per token)), whose weights differ by a factor e at most and favour finer
    tokenizers, so we use bits per byte and a temperature.
    """
    score_ST = -aligned.bits_SN[:, aligned.example_T] / params.kappa
    whole_ST = normalise(score_ST, teaches_example(aligned.aligned_ST, aligned.example_T))
    return mix(aligned, only_aligned(whole_ST, aligned.aligned_ST), keep=keep)
