"""Examples and their targets, as batches for the trainer.

Axes: B rows, L tokens (padding included), R response positions of the batch, K kept entries,
N examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from infifusion.types import Rendered, Target

Teaching = Target | Callable[[NDArray[np.int64]], Target]
"""What the sources say: a finished target with one row per response position of the data, or a
function that makes the rows of some examples, given by number, when a batch asks for them."""


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

    def __init__(
        self,
        rendered: Rendered,
        target: Teaching | None,
        domain_N: NDArray[np.int64] | None = None,
    ) -> None:
        """target: None for plain fine-tuning, where no row keeps an entry and none is taught.
        domain_N: the number of every example's domain; None where all are of one."""
        self._rendered = rendered
        self._domain_N = np.zeros(len(rendered), np.int64) if domain_N is None else domain_N
        self._target = _nobody(len(rendered.start_R)) if target is None else target
        if isinstance(self._target, Target):
            _ = self._target.taught_T  # made once, before the data loader's workers are forked

    def __call__(self, items: list[Item]) -> dict[str, torch.Tensor]:
        """A batch of one padded row per example: input_ids, attention_mask, predicts_BL (the
        positions whose next token is a response token), example_B, and the fields of
        types.SparseTarget. Rows of R are in the order of the examples."""
        length = max(len(item["input_ids"]) for item in items)
        ids_BL = np.zeros((len(items), length), dtype=np.int64)
        mask_BL, predicts_BL = np.zeros_like(ids_BL), np.zeros(ids_BL.shape, dtype=bool)
        for b, item in enumerate(items):
            self._write(item, ids_BL[b], predicts_BL[b], 0)
            mask_BL[b, : len(item["input_ids"])] = 1
        layout = {"input_ids": ids_BL, "attention_mask": mask_BL, "predicts_BL": predicts_BL}
        return _tensors({**layout, **self._rows(items)})

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
        return _tensors({**layout, **self._rows(items)})

    def _write(self, item: Item, ids_L: NDArray, predicts_L: NDArray, begin: int) -> None:
        """One example's tokens, and which of them predict response tokens, from `begin` on."""
        end = begin + len(item["input_ids"])
        first = begin + int(self._rendered.first_N[item["example"]])
        ids_L[begin:end] = item["input_ids"]
        predicts_L[first - 1 : end - 1] = True

    def _rows(self, items: list[Item]) -> dict[str, NDArray]:
        """What the response positions are trained on."""
        rendered, numbers = self._rendered, [item["example"] for item in items]
        gold = [item["input_ids"][int(rendered.first_N[item["example"]]) :] for item in items]
        target = self._target
        if isinstance(target, Target):
            begin, end = rendered.row_N1[numbers], rendered.row_N1[np.add(numbers, 1)]
            row_R = np.concatenate([np.arange(*some) for some in zip(begin, end, strict=True)])
        else:
            target = target(np.asarray(numbers))
            row_R = np.arange(len(target.ids_TK))
        rows = {
            "example_B": np.asarray(numbers),
            "gold_R": np.concatenate(gold).astype(np.int64),
            "taught_R": target.taught_T[row_R],
            "domain_R": np.repeat(self._domain_N[numbers], [len(one) for one in gold]),
            "ids_RK": target.ids_TK[row_R].astype(np.int64),
            "prob_RK": target.prob_TK[row_R],
        }
        if target.zscore_TK is not None:
            rows["zscore_RK"] = target.zscore_TK[row_R]
        return rows


def _nobody(rows: int) -> Target:
    """A target of no sources and no entries."""
    nothing_TK = np.zeros((rows, 0), np.float32)
    weight_ST = np.zeros((0, rows), np.float32)
    return Target(nothing_TK.astype(np.int32), nothing_TK, weight_ST, None)


def _tensors(batch: dict[str, NDArray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}
