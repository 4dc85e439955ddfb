"""What a recipe names, as functions: of a target, from what the sources believed to its rows; of a
training run, its loss and its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from infifusion.align.project import Believed, Origins, Positions, align_sources
from infifusion.errors import RecipeError
from infifusion.fuse import FUSION_FUNCTIONS, PARAMS
from infifusion.fuse.gate import shut
from infifusion.losses import LOSSES
from infifusion.losses import PARAMS as LOSS_PARAMS
from infifusion.named import function_and_params
from infifusion.recipe import FuseTarget, TrainingRun
from infifusion.registry import look_up
from infifusion.train.callbacks import CallbackMaker
from infifusion.train.chunked import PositionLoss
from infifusion.types import Aligned, Rendered, SparseTarget, Target


def positions(rendered: Rendered, gold_R: NDArray[np.int32], begin: int, end: int) -> Positions:
    """The response positions of examples [begin, end), numbered from 0."""
    rows = slice(int(rendered.row_N1[begin]), int(rendered.row_N1[end]))
    return Positions(
        start_R=rendered.start_R[rows],
        row_N1=rendered.row_N1[begin : end + 1] - rendered.row_N1[begin],
        gold_R=gold_R[rows],
        private_R=None if rendered.private_R is None else rendered.private_R[rows],
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

    def combine(aligned: Aligned) -> Target:
        try:
            return function(aligned, params, keep=target.keep)
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
            zscore_STK=None,
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
    *,
    zscores: bool = True,
) -> tuple[Aligned, Origins, Target]:
    """Some examples from the sources' beliefs to the target's rows.

    combine: what `fusion_function` gave. open_SN: which source may teach which example, where the
    target has a gate; the pivot as a source comes last and is never shut. zscores: whether the loss
    that will read the rows reads the standardised logits.
    """
    aligned, origins = align_sources(believed, pivot, gold_path=target.gold_path, zscores=zscores)
    if open_SN is not None:
        exempt = len(believed) - 1 if target.pivot_as_source else None
        aligned = shut(aligned, open_SN, exempt=exempt)
    return aligned, origins, combine(aligned)


def position_loss_of(run: TrainingRun) -> PositionLoss:
    """The loss that the run names, as the trainer calls it."""
    function, params = function_and_params(
        LOSSES, LOSS_PARAMS, run.loss, run.params, kind="loss", where=f"distill.{run.name}"
    )

    def position_loss(log_CV: torch.Tensor, rows: SparseTarget) -> torch.Tensor:
        return function(log_CV, rows, params)

    return position_loss


def find_callbacks(names: Sequence[str]) -> list[CallbackMaker]:
    """The class or function that each module:name stands for, imported and not yet called.

    RecipeError where one cannot be imported or is neither.
    """
    makers = []
    for name in names:
        if ":" not in name:
            raise RecipeError(
                f"callbacks: expected module:name, found {name!r}. Name a transformers."
                "TrainerCallback class, or a function that returns one, such as "
                "my_callbacks:StopEarly; put the folder of my_callbacks.py on PYTHONPATH."
            )
        make = look_up({}, name, kind="callback", where="callbacks")
        if not callable(make) or (isinstance(make, type) and not issubclass(make, TrainerCallback)):
            raise RecipeError(
                f"callbacks: {name} is a {type(make).__name__}; expected a "
                "transformers.TrainerCallback class, or a function without arguments that returns "
                "a callback."
            )
        makers.append((name, make))
    return makers
