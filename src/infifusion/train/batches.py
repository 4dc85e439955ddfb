"""Examples and their targets, as batches for the trainer.

Axes: B examples, L tokens (padding included), R response positions of the batch, K kept entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from infifusion.types import Rendered, Target


class Conversations(Dataset[dict[str, Any]]):
    """The rendered examples, one by one; `input_ids` lets samplers group by length."""

    def __init__(self, rendered: Rendered) -> None:
        self._rendered = rendered

    def __len__(self) -> int:
        return len(self._rendered)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):  # ends a plain `for`, as samplers write it
            raise IndexError(index)
        begin, end = self._rendered.offset_N1[index : index + 2]
        return {"input_ids": self._rendered.ids_L[begin:end], "example": index}


class Collator:
    """Pads the tokens of some examples and gathers the target rows of their response positions."""

    def __init__(self, rendered: Rendered, target: Target | None) -> None:
        """target holds one row per row of rendered.start_R; None for plain fine-tuning."""
        self._rendered, self._target = rendered, target

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch: input_ids_BL, attention_mask_BL, predicts_BL (the positions whose next token is
        a response token), gold_R, taught_R (whether any source teaches there), example_B, and with
        a target ids_RK, prob_RK, zscore_RK. Rows are in the order of the examples."""
        lengths = [len(item["input_ids"]) for item in items]
        ids_BL = np.zeros((len(items), max(lengths)), dtype=np.int64)
        mask_BL, predicts_BL = np.zeros_like(ids_BL), np.zeros(ids_BL.shape, dtype=bool)
        rows, gold = [], []
        for b, item in enumerate(items):
            n, length = item["example"], lengths[b]
            first = int(self._rendered.first_N[n])
            ids_BL[b, :length] = item["input_ids"]
            mask_BL[b, :length] = 1
            predicts_BL[b, first - 1 : length - 1] = True
            gold.append(item["input_ids"][first:])
            rows.append(np.arange(int(self._rendered.row_N1[n]), int(self._rendered.row_N1[n + 1])))
        batch = {
            "input_ids": ids_BL,
            "attention_mask": mask_BL,
            "predicts_BL": predicts_BL,
            "gold_R": np.concatenate(gold).astype(np.int64),
            "example_B": np.asarray([item["example"] for item in items]),
        }
        row_R = np.concatenate(rows)
        if self._target is None:
            batch["taught_R"] = np.zeros(len(row_R), dtype=bool)
        else:
            batch["taught_R"] = self._target.weight_ST[:, row_R].sum(axis=0) > 0
            batch["ids_RK"] = self._target.ids_TK[row_R].astype(np.int64)
            batch["prob_RK"] = self._target.prob_TK[row_R]
            batch["zscore_RK"] = self._target.zscore_TK[row_R]
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}
