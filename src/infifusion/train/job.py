"""Everything one training run needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from infifusion.recipe import Lora
from infifusion.train.batches import MakesRows
from infifusion.train.chunked import PositionLoss
from infifusion.train.start import Start
from infifusion.types import Rendered, Target


@dataclass(frozen=True)
class Job:
    """Everything one run needs.

    model: folder or hub name to start from. rendered: its examples. target: what the sources say,
    one row per response position, or what makes them, or None. loss: called where a source teaches,
    or None.
    pack_tokens: tokens of a pack, or None to pad. stop_at_rise: as in the recipe. chosen: numbers
    of the examples that are trained on, or None for all. callbacks: module:name of the user's own.
    """

    title: str
    model: str
    tokenizer: PreTrainedTokenizerBase
    rendered: Rendered
    target: Target | MakesRows | None
    loss: PositionLoss | None
    gold_weight: float
    loss_rows: int
    training: dict[str, Any]
    lora: Lora | None
    seed: int
    revision: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    parallel: str = "ddp"
    pack_tokens: int | None = None
    quantization: str | None = None
    stop_at_rise: float | None = 2.0
    chosen: NDArray[np.int64] | None = None
    callbacks: Sequence[str] = ()

    @property
    def start(self) -> Start:
        """Where the weights come from."""
        return Start(self.model, self.revision, self.trust_remote_code, self.attn_implementation)
