"""The parts of a training run, for a loop of one's own: data, collator, a model with the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infifusion.train.chunked import PositionLoss, with_position_loss
from infifusion.types import Rendered

IGNORED = -100
"""The label of what is not predicted, as transformers has it."""


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
