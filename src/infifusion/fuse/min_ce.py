"""MinCE of FuseLLM: the source that predicts the response best takes the whole sequence."""

from __future__ import annotations

from infifusion.fuse.by_example import teaches_example
from infifusion.fuse.mixture import choose, mix, only_aligned
from infifusion.strict import Strict
from infifusion.types import Aligned, Target


class Params(Strict):
    """`min_ce` has no parameters."""


def min_ce(aligned: Aligned, params: Params, *, keep: int) -> Target:
    """P = P_s of the source with the lowest cross-entropy on the gold response.

    Cross-entropy is compared in bits per byte, because per token it would favour the finer
    tokenizer. At a position where the best source is not aligned nobody teaches.
    Source: FuseLLM, arXiv 2401.10491 v2, section 3.2. It looks at the gold response: with wrong
    labels it may punish the source that knows better.
    """
    score_ST = -aligned.bits_SN[:, aligned.example_T]
    best_ST = choose(score_ST, teaches_example(aligned.aligned_ST, aligned.example_T))
    return mix(aligned, only_aligned(best_ST, aligned.aligned_ST), keep=keep)
