"""Examples and their targets, as batches for the trainer.

Axes: B rows, L tokens (padding included), R response positions of the batch, K kept entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from infifusion.types import Rendered, Target

# Makes the target rows of some examples, given by number, when a batch asks for them.
MakesRows = Callable[[NDArray[np.int64]], Target]


class Item(TypedDict):
    """One example: its number and its tokens."""

    input_ids: NDArray[np.int32]
    example: int


class Conversations(Dataset[Item]):
    """The rendered examples, one by one; `input_ids` lets samplers group by length."""

    def __init__(self, rendered: Rendered, chosen: NDArray[np.int64] | None = None) -> None:
        """chosen: numbers of the examples that are drawn; None for all."""
        self._rendered = rendered
        self._number_N = np.arange(len(rendered)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._number_N)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):  # ends a plain `for`, as samplers write it
            raise IndexError(index)
        number = int(self._number_N[index])
        begin, end = self._rendered.offset_N1[number : number + 2]
        return {"input_ids": self._rendered.ids_L[begin:end], "example": number}


class Collator:
    """The tokens of some examples, and the target rows of their response positions."""

    def __init__(self, rendered: Rendered, target: Target | MakesRows | None) -> None:
        """target holds one row per row of rendered.start_R, or makes those of some examples; None
        for plain fine-tuning."""
        self._rendered, self._target = rendered, target

    def __call__(self, items: list[Item]) -> dict[str, torch.Tensor]:
        """A batch of one padded row per example: input_ids, attention_mask, predicts_BL (the
        positions whose next token is a response token), gold_R, taught_R (whether any source
        teaches there), example_B, and with a target ids_RK, prob_RK, zscore_RK. Rows of R are in
        the order of the examples."""
        length = max(len(item["input_ids"]) for item in items)
        ids_BL = np.zeros((len(items), length), dtype=np.int64)
        mask_BL, predicts_BL = np.zeros_like(ids_BL), np.zeros(ids_BL.shape, dtype=bool)
        for b, item in enumerate(items):
            self._write(item, ids_BL[b], predicts_BL[b], 0)
            mask_BL[b, : len(item["input_ids"])] = 1
        layout = {"input_ids": ids_BL, "attention_mask": mask_BL, "predicts_BL": predicts_BL}
        return _tensors({**layout, **self._positions(items)})

    def packed(self, packs: list[list[Item]]) -> dict[str, torch.Tensor]:
        """The same with all examples end to end in one row (B = 1), and in place of the attention
        mask position_ids, which start again at 0 with every example."""
        items = [item for one in packs for item in one]
        lengths = [len(item["input_ids"]) for item in items]
        ids_L = np.zeros(sum(lengths), dtype=np.int64)
        predicts_L = np.zeros(len(ids_L), dtype=bool)
        begin = 0
        for item, length in zip(items, lengths, strict=True):
            self._write(item, ids_L, predicts_L, begin)
            begin += length
        layout = {
            "input_ids": ids_L[None],
            "position_ids": np.concatenate([np.arange(n) for n in lengths])[None],
            "predicts_BL": predicts_L[None],
        }
        return _tensors({**layout, **self._positions(items)})

    def _write(self, item: Item, ids_L: NDArray, predicts_L: NDArray, begin: int) -> None:
        """One example's tokens, and which of them predict response tokens, from `begin` on."""
        end = begin + len(item["input_ids"])
        first = begin + int(self._rendered.first_N[item["example"]])
        ids_L[begin:end] = item["input_ids"]
        predicts_L[first - 1 : end - 1] = True

    def _positions(self, items: list[Item]) -> dict[str, NDArray]:
        """What the response positions are trained on."""
        rendered, rows, gold = self._rendered, [], []
        for item in items:
            n = item["example"]
            gold.append(item["input_ids"][int(rendered.first_N[n]) :])
            rows.append(np.arange(int(rendered.row_N1[n]), int(rendered.row_N1[n + 1])))
        row_R = np.concatenate(rows)
        found: dict[str, NDArray] = {
            "gold_R": np.concatenate(gold).astype(np.int64),
            "taught_R": np.zeros(len(row_R), dtype=bool),
            "example_B": np.asarray([item["example"] for item in items]),
        }
        if self._target is not None:
            target = self._rows(found["example_B"], row_R)
            found["taught_R"] = target.weight_ST.sum(axis=0) > 0
            found["ids_RK"] = target.ids_TK.astype(np.int64)
            found["prob_RK"] = target.prob_TK
            found["zscore_RK"] = target.zscore_TK
        return found

    def _rows(self, numbers: NDArray[np.int64], row_R: NDArray[np.int64]) -> Target:
        target = self._target
        assert target is not None
        if not isinstance(target, Target):
            return target(numbers)
        weight_SR = target.weight_ST[:, row_R]
        return Target(
            target.ids_TK[row_R], target.prob_TK[row_R], weight_SR, target.zscore_TK[row_R]
        )


def _tensors(batch: dict[str, NDArray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}
