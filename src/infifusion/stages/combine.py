"""Some examples, from what the sources believed to the rows of a target.

Axes: S sources, T pivot positions, U source positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import example_of
from infifusion.align.evidence import bits_per_byte, running_evidence
from infifusion.align.project import Pair, Positions, Projected, project
from infifusion.align.vocabulary import VocabularyMap
from infifusion.align.zscores import zscores
from infifusion.errors import RecipeError
from infifusion.fuse import FUSION_FUNCTIONS, PARAMS
from infifusion.fuse.gate import shut
from infifusion.named import function_and_params
from infifusion.recipe import FuseTarget
from infifusion.types import Aligned, Beliefs, Rendered, Target

# One source on some examples: its positions, what it believed there, its map to the pivot's ids and
# how its positions are aligned with the pivot's.
Believed = tuple[Positions, Beliefs, VocabularyMap, Pair]


def positions(rendered: Rendered, gold_R: NDArray[np.int32], begin: int, end: int) -> Positions:
    """The response positions of examples [begin, end), numbered from 0."""
    rows = slice(int(rendered.row_N1[begin]), int(rendered.row_N1[end]))
    return Positions(
        start_R=rendered.start_R[rows],
        row_N1=rendered.row_N1[begin : end + 1] - rendered.row_N1[begin],
        gold_R=gold_R[rows],
    )


def fusion_function(target: FuseTarget) -> Callable[[Aligned], Target]:
    """The target's fusion function with its parameters. It raises RecipeError where they do not
    fit the sources."""
    function, params = function_and_params(
        FUSION_FUNCTIONS,
        PARAMS,
        target.function,
        target.params,
        kind="fusion function",
        where=f"fuse.{target.name}",
    )

    def combine(beliefs: Aligned) -> Target:
        try:
            return function(beliefs, params, keep=target.keep)
        except ValueError as error:
            raise RecipeError(f"fuse.{target.name}: {error}") from error

    return combine


def check_target(target: FuseTarget) -> None:
    """RecipeError when the function or its parameters do not fit, or the number of sources. For
    that one of our functions combines one position: before the teacher pass, not after it."""
    combine = fusion_function(target)
    if target.function not in FUSION_FUNCTIONS:
        return
    shape = (len(target.sources) + target.pivot_as_source, 1)
    ones_ST = np.ones(shape, np.float32)
    combine(
        Aligned(
            ids_STK=np.zeros((*shape, 1), np.int32),
            prob_STK=ones_ST[:, :, None],
            tail_ST=0 * ones_ST,
            aligned_ST=ones_ST > 0,
            entropy_ST=ones_ST,
            top_ST=ones_ST,
            zscore_STK=ones_ST[:, :, None],
            bits_SN=ones_ST,
            evidence=lambda forgetting: ones_ST,
            example_T=np.zeros(1, np.int64),
        )
    )


def fuse_chunk(
    target: FuseTarget,
    combine: Callable[[Aligned], Target],
    believed: list[Believed],
    pivot: Positions,
    open_SN: NDArray[np.bool_] | None,
) -> tuple[Aligned, list[Projected], Target]:
    """Some examples from the sources' beliefs to the target's rows; open_SN: which source may teach
    which example, where the target has a gate. The pivot as a source comes last and is never
    shut."""
    beliefs, projected = align_chunk(believed, pivot, gold_path=target.gold_path)
    if open_SN is not None:
        exempt = len(believed) - 1 if target.pivot_as_source else None
        beliefs = shut(beliefs, open_SN, exempt=exempt)
    return beliefs, projected, combine(beliefs)


def align_chunk(
    parts: list[Believed], pivot: Positions, *, gold_path: bool
) -> tuple[Aligned, list[Projected]]:
    """All sources at the pivot's positions of the same examples."""
    projected = [
        project(here, beliefs, pivot, mapping, pair=pair, gold_path=gold_path)
        for here, beliefs, mapping, pair in parts
    ]

    def at_pivot(values: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Per-source position values, gathered at the pivot's positions; 0 where unaligned."""
        return np.stack(
            [
                np.where(one.source_T >= 0, value_U[np.maximum(one.source_T, 0)], 0)
                for one, value_U in zip(projected, values, strict=True)
            ]
        ).astype(np.float32)

    def evidence(forgetting: float) -> NDArray[np.float32]:
        return at_pivot(
            running_evidence(b.gold_U, here.start_R, here.row_N1, forgetting=forgetting)
            for here, b, *_ in parts
        )

    return (
        Aligned(
            ids_STK=np.stack([one.ids_TK for one in projected]),
            prob_STK=np.stack([one.prob_TK for one in projected]),
            tail_ST=np.stack([one.tail_T for one in projected]),
            aligned_ST=np.stack([one.source_T >= 0 for one in projected]),
            entropy_ST=at_pivot(b.entropy_U for _, b, *_ in parts),
            top_ST=at_pivot(np.exp(b.logprob_UK[:, 0].astype(np.float32)) for _, b, *_ in parts),
            zscore_STK=np.stack(
                [zscores(b, one.source_T) for one, (_, b, *_) in zip(projected, parts, strict=True)]
            ),
            bits_SN=np.stack(
                [bits_per_byte(b.gold_U, here.start_R, here.row_N1) for here, b, *_ in parts]
            ),
            evidence=evidence,
            example_T=example_of(pivot.row_N1),
        ),
        projected,
    )
