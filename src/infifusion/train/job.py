"""Everything one training run needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from infifusion.recipe import Lora, Model
from infifusion.train.batches import Teaching
from infifusion.train.callbacks import CallbackMaker
from infifusion.train.chunked import PositionLoss
from infifusion.train.gate import Gate
from infifusion.train.held_out import HeldOut
from infifusion.types import Rendered


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
