"""Sequence packing: several examples in one row, without padding, none of which sees another.

transformers recognises examples in a row by position_ids that start again at 0, when there is no
attention mask: it then makes a block mask (sdpa, eager, flex_attention), or variable-length calls
(flash_attention). `check_packing` tries whether a model really does.

Axes: N examples, L tokens of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from infifusion.errors import RecipeError
from infifusion.teacher.lm_head import split_head
from infifusion.train.batches import Conversations, Item

# Float32 sums in another order differ by 1e-6 of the largest value; another example in view
# changes even a freshly initialised model of two layers by more than 1e-3.
TOLERANCE = 1e-4


def pack(length_N: NDArray[np.int64], capacity: int, *, seed: int) -> list[list[int]]:
    """Example numbers in packs of at most `capacity` tokens.

    Best fit in an order drawn by the seed: each example goes where the least room is left over.
    Ordered by length, packs would be full but hold examples of one length, and batches would no
    longer be drawn at random. Every example must fit into a pack alone.
    """
    open_packs: dict[int, list[int]] = {}  # room left -> packs with so much room
    rooms = 0  # bit r is set where open_packs[r] holds something
    packs: list[list[int]] = []
    for n in np.random.default_rng(seed).permutation(len(length_N)).tolist():
        length = int(length_N[n])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            place = open_packs[room].pop()
            if not open_packs[room]:
                rooms &= ~(1 << room)
            packs[place].append(n)
        else:
            room, place = capacity, len(packs)
            packs.append([n])
        left = room - length
        if left > 0:
            open_packs.setdefault(left, []).append(place)
            rooms |= 1 << left
    return packs


class Packs(Dataset[list[Item]]):
    """The examples of each pack."""

    def __init__(self, conversations: Conversations, packs: list[list[int]]) -> None:
        self._conversations, self._packs = conversations, packs

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, index: int) -> list[Item]:
        return [self._conversations[n] for n in self._packs[index]]


@torch.no_grad()
def check_packing(model: PreTrainedModel, *, where: str) -> None:
    """Run two little examples apart and in one row; RecipeError where the row changes them.

    So fails whatever ignores position_ids or carries a state along the row. flash_attention runs
    on a GPU only, and the model is not there yet: sdpa stands in for it, with the same positions.
    """
    attention = str(model.config._attn_implementation)
    flash = attention.startswith("flash")
    if flash:
        model.set_attn_implementation("sdpa")
    training = model.training
    model.eval()
    try:
        difference = _difference(model)
    except TypeError as error:
        difference = str(error)
    finally:
        model.train(training)
        if flash:
            model.set_attn_implementation(attention)
    if isinstance(difference, float) and difference <= TOLERANCE:
        return
    found = difference if isinstance(difference, str) else f"they differ by {difference:.2g}"
    raise RecipeError(
        f"{where}.packing: {type(model).__name__} with attn_implementation {attention} does not "
        "keep the examples of a row apart: run apart and in one row, two examples should have the "
        f"same hidden states, but {found}. Remove packing, or set the pivot's attn_implementation "
        "to sdpa, eager or flash_attention_2 if the model has it."
    )


def _difference(model: PreTrainedModel) -> float:
    """Largest difference of hidden states, relative to the largest of them."""
    head, width = split_head(model), int(model.config.get_text_config().vocab_size)
    first, second = (
        (torch.arange(n, device=model.device) * 7 + n).remainder(width)[None] for n in (5, 7)
    )
    apart = torch.cat([head.hidden(first)[0], head.hidden(second)[0]]).float()
    row = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None].to(model.device)
    packed = head.hidden(row, position_ids=positions)[0].float()
    return float((packed - apart).abs().max() / apart.abs().max().clamp_min(1e-12))
