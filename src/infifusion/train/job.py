"""Everything one training run needs; and its parts for a loop of one's own: data, collator, a model
with the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infifusion.errors import CheckpointError
from infifusion.recipe import Lora, Model
from infifusion.train.batches import Teaching
from infifusion.train.callbacks import CallbackMaker
from infifusion.train.chunked import PositionLoss, with_position_loss
from infifusion.train.gate import Gate
from infifusion.train.held_out import HeldOut
from infifusion.train.own_text import OwnText
from infifusion.types import Rendered, Target

IGNORED = -100
"""The label of what is not predicted, as transformers has it."""


@dataclass(frozen=True)
class Job:
    """Everything one run needs.

    model:        what the training starts from.
    rendered:     its examples.
    target:       what the sources say at every response position, or None.
    loss:         called where a source teaches; None without a target.
    gold_weight:  weight of the gold token's cross-entropy where a source teaches.
    gate:         says how far the sources count at each position; None: all the same.
    loss_rows:    response positions whose logits exist at once.
    training:     the recipe's TrainingArguments.
    domains:      the domain of every example, or None: all are of one.
    pack_tokens:  tokens of a pack, or None to pad.
    stop_at_rise: how many times its lowest mean the loss may become; None: any number of times.
    chosen:       numbers of the examples that an epoch goes over, some maybe several times; None
                  for all, once.
    callbacks:    the user's own.
    held_out:     what the model is scored on while it trains, where training.eval_strategy says so.
    patience:     evaluations without a better one after which training ends; None: it does not.
    own:          text that the pivot writes itself beside or in place of the examples, or None.
    """

    title: str
    model: Model
    tokenizer: PreTrainedTokenizerBase
    rendered: Rendered
    target: Teaching | None
    loss: PositionLoss | None
    gold_weight: float
    loss_rows: int
    training: dict[str, Any]
    lora: Lora | None
    seed: int
    parallel: str = "ddp"
    gate: Gate | None = None
    domains: Sequence[str] | None = None
    pack_tokens: int | None = None
    stop_at_rise: float | None = 2.0
    chosen: NDArray[np.int64] | None = None
    callbacks: Sequence[CallbackMaker] = ()
    held_out: HeldOut | None = None
    patience: int | None = None
    own: OwnText | None = None


@dataclass(frozen=True)
class TrainingParts:
    """What transformers' Trainer, or a loop of one's own, needs to train as a run of a recipe does.

    dataset:   the run's examples.
    collator:  makes a batch of some of them: input_ids, attention_mask, labels, and the rows of the
               fused target.
    tokenizer: the pivot's.
    pivot:     folder or hub name that the run starts from.
    """

    dataset: datasets.Dataset
    collator: Callable[[list[Any]], dict[str, torch.Tensor]]
    tokenizer: PreTrainedTokenizerBase
    pivot: str
    _loss: PositionLoss | None
    _gold_weight: float
    _loss_rows: int

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with a forward that takes such batches and returns `loss`: the mean over the
        response positions of the batch, or, given num_items_in_batch, their sum over that number,
        as Trainer has it for gradient accumulation and several processes. Logits are made of a few
        positions at a time and not returned."""
        model = with_position_loss(
            model, self._loss, gold_weight=self._gold_weight, loss_rows=self._loss_rows
        )
        sums = model.forward

        def forward(
            num_items_in_batch: torch.Tensor | int | None = None, **batch: Any
        ) -> dict[str, torch.Tensor]:
            found = sums(**batch)
            count = len(batch["gold_R"]) if num_items_in_batch is None else num_items_in_batch
            return {**found, "loss": found["loss"] / count}

        model.forward = forward
        return model


def as_data_set(rendered: Rendered, chosen: NDArray[np.int64] | None) -> datasets.Dataset:
    """The examples as a data set of `datasets`, which TRL insists on; chosen: their numbers, some
    maybe several times, None for all. Nothing is copied of the tokens."""
    offset_N1 = pyarrow.array(np.asarray(rendered.offset_N1, dtype=np.int64))
    ids_L = pyarrow.array(np.asarray(rendered.ids_L, dtype=np.int32))
    columns = {
        "input_ids": pyarrow.LargeListArray.from_arrays(offset_N1, ids_L),
        "example": pyarrow.array(np.arange(len(rendered))),
    }
    whole = datasets.Dataset(pyarrow.table(columns))
    return whole if chosen is None else whole.select(chosen)


def with_labels(
    collate: Callable[[list[Any]], dict[str, torch.Tensor]],
) -> Callable[[list[Any]], dict[str, torch.Tensor]]:
    """The collator, whose batches have `labels`, too: Trainer counts the positions by them."""

    def collated(items: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(items)
        labels_BL = torch.full_like(batch["input_ids"], IGNORED)
        predicted_BL = torch.zeros_like(batch["predicts_BL"])
        predicted_BL[:, 1:] = batch["predicts_BL"][:, :-1]
        labels_BL[predicted_BL] = batch["gold_R"]
        return {**batch, "labels": labels_BL}

    return collated


def check_ids(job: Job, model: PreTrainedModel) -> None:
    """CheckpointError where the data holds a token that the model's head does not have."""
    width = int(model.config.get_text_config().vocab_size)
    largest = int(job.rendered.ids_L.max(initial=-1))
    if isinstance(job.target, Target):
        largest = max(largest, int(job.target.ids_TK.max(initial=-1)))
    if largest >= width:
        raise CheckpointError(
            f"{job.title}: the data holds the token id {largest}, but the model at "
            f"{job.model.model} has {width} entries in its head: tokenizer and model do not belong "
            "together. Remove `tokenizer:` from the model, or give the one it was trained with."
        )


def positions(job: Job) -> dict[str, int | None]:
    """Response positions that an epoch trains on, and those of them where a source
    teaches; None where that shows only while the rows are made."""
    times_N = np.ones(len(job.rendered), dtype=np.int64)
    if job.chosen is not None:
        times_N = np.bincount(job.chosen, minlength=len(job.rendered))
    times_T = np.repeat(times_N, np.diff(job.rendered.row_N1))
    taught: int | None = None
    if job.own is not None:
        given = job.own.settings.share < 1
        return {"positions": int(times_T.sum()) if given else 0, "taught_positions": None}
    if job.target is None:
        taught = 0
    elif isinstance(job.target, Target):
        taught = int(times_T[job.target.taught_T].sum())
    return {"positions": int(times_T.sum()), "taught_positions": taught}
