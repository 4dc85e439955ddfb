"""Layers of a model in the order in which the processor multiplies them, while answers are written.

torch hands a bfloat16 weight to oneDNN as it lies, row by row. For thousands of tokens that is as
fast as oneDNN's own order; of a step of generation, one token per row, the product is slower by it
(docs/performance.md). Here the order is made once. The sums are the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import nn

LEAST = 1 << 16
"""Elements of a weight below which its order makes no difference to be measured."""


@contextmanager
def packed_layers(model: nn.Module, rows: int) -> Iterator[int]:
    """Within it the model's plain layers on a CPU multiply weights in oneDNN's order, where they
    multiply in bfloat16 (their own dtype, or float32 under autocast); gives how many do.

    rows: of the usual product. The copies take two bytes per weight, until the end of it. Weights
    that change meanwhile are not seen. Layers of other types, with hooks (device_map) or with a
    forward of their own stay as they are, and all do where this torch cannot pack.
    """
    modules = model.modules() if _possible() else ()
    layers = [layer for layer in modules if _can_be_packed(layer)]
    try:
        for layer in layers:
            layer.__dict__["forward"] = _product(layer, rows)
        yield len(layers)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _can_be_packed(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.device.type == "cpu"
        and layer.weight.numel() >= LEAST
        and (layer.weight.dtype is torch.bfloat16 or _narrowed(layer.weight))
        and "forward" not in layer.__dict__
        and not hasattr(layer, "_hf_hook")
    )


def _narrowed(tensor: torch.Tensor) -> bool:
    """Whether autocast makes it bfloat16 for a product."""
    return (
        tensor.dtype is torch.float32
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    )


def _possible() -> bool:
    """Whether torch's operators for it are there; torch.compile uses the same ones on a CPU."""
    operators = torch.ops.mkldnn
    return (
        hasattr(operators, "_linear_pointwise")
        and hasattr(operators, "_reorder_linear_weight")
        and operators._is_mkldnn_bf16_supported()
    )


def _product(layer: nn.Linear, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The layer's forward with its weight in oneDNN's order."""
    bias = None if layer.bias is None else layer.bias.detach().bfloat16()
    narrow = layer.weight.detach().bfloat16()
    weight = torch.ops.mkldnn._reorder_linear_weight(narrow, rows)

    def forward(input: torch.Tensor) -> torch.Tensor:
        if input.dtype is torch.bfloat16 or _narrowed(input):
            return torch.ops.mkldnn._linear_pointwise(
                input.bfloat16(), weight, bias, "none", [], ""
            )
        return nn.functional.linear(input, layer.weight, layer.bias)

    return forward
