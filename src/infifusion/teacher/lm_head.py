"""A causal language model in two halves: hidden states, and the head that makes logits of them.

Logits of a whole batch are the largest tensor of the teacher pass and of the loss; with the halves
apart the head runs over a few positions at a time. `check_head` compares the halves with the
model's own logits, so that an architecture which does something else there is refused.

Axes: B batch, L tokens, D hidden size, R positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from infifusion.errors import CheckpointError

# What architectures do to the head's output, by config field: Gemma 2 and 3 cap, Cohere
# multiplies, Granite divides.
SOFT_CAP = "final_logit_softcapping"
MULTIPLIER = "logit_scale"
DIVISOR = "logits_scaling"
CANDIDATES = 8
"""Tokens whose logits are calculated again in float32 to find the largest."""
BLOCK = 8192
"""Rows of a head made float32 at a time: few enough to stay in a processor's cache until they are
used, many enough for a product at full speed."""


@dataclass(frozen=True)
class LanguageModelHead:
    """`hidden` and `logits` of one model; made by split_head."""

    body: nn.Module
    head: nn.Module
    soft_cap: float | None
    scale: float

    def hidden(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: object
    ) -> torch.Tensor:
        """Last hidden states, final norm included: [B, L] ids to [B, L, D]."""
        out = self.body(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs
        )
        return out.last_hidden_state

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        """float32 logits as the model itself would give them: [R, D] to [R, V]."""
        return self.finish(self.head(hidden_RD))

    def likeliest(self, hidden_RD: torch.Tensor) -> list[int]:
        """The tokens with the largest float32 logits, of equal ones the first: [R]. -1 where a
        logit is NaN or +Inf.

        In half precision the few that may be the largest are told by the rounded product, and
        multiplied again in float32: of a step of generation the head is the largest part.
        """
        raw_RV = self.head(hidden_RD)
        exact = self.with_float32_logits()
        if exact is self or not isinstance(self.head, nn.Linear) or raw_RV.shape[1] <= CANDIDATES:
            top_R, ids_R = exact.logits(hidden_RD).max(dim=1)
            return torch.where(torch.isfinite(top_R), ids_R, -1).tolist()
        top_RC, ids_RC = raw_RV.topk(CANDIDATES, dim=1)
        ids_RC = ids_RC.sort(dim=1).values  # so that of equal ones the first is taken
        weight_RCD = self.head.weight.detach()[ids_RC].float()
        exact_RC = (weight_RCD @ hidden_RD.float()[:, :, None])[:, :, 0]
        if self.head.bias is not None:
            exact_RC += self.head.bias.detach()[ids_RC].float()
        found_R = ids_RC.gather(1, exact_RC.argmax(dim=1, keepdim=True))[:, 0]
        # More than the candidates lie within the rounding of the largest: take them all.
        close_R = (
            top_RC[:, 0] - top_RC[:, -1] <= 2 * torch.finfo(raw_RV.dtype).eps * top_RC[:, 0].abs()
        )
        if close_R.any():
            found_R[close_R] = exact.logits(hidden_RD[close_R]).argmax(dim=1)
        return torch.where(torch.isfinite(top_RC[:, 0]), found_R, -1).tolist()

    def with_float32_logits(self) -> LanguageModelHead:
        """The same halves, whose last product gives float32 logits.

        A half-precision product is rounded to 8 bits (bfloat16): of real models 23 to 30 % of the
        neighbouring logits among the 20 largest become equal, and the ten largest are others at 12
        to 28 % of the positions (docs/performance.md). A head that is no plain linear layer, is
        quantised or lies elsewhere (device_map) stays as it is.
        """
        head = self.head
        plain = (
            type(head) is nn.Linear and not head.weight.is_meta and not hasattr(head, "_hf_hook")
        )
        if not plain or head.weight.dtype not in (torch.bfloat16, torch.float16):
            return self
        return replace(self, head=Float32Logits(head))  # pyright: ignore[reportArgumentType]

    def finish(self, raw_RV: torch.Tensor) -> torch.Tensor:
        """What the model does to the output of its head: float32, scaled, capped."""
        logits_RV = raw_RV.float()
        if self.scale != 1.0:  # one pass over the largest tensor there is
            logits_RV = logits_RV * self.scale
        if self.soft_cap is not None:
            logits_RV = torch.tanh(logits_RV / self.soft_cap) * self.soft_cap
        return logits_RV


class Float32Logits(nn.Module):
    """A half-precision linear layer whose sums and output are float32.

    On CUDA one product with a float32 result. Elsewhere some rows of the weights at a time are made
    float32, so that there is no second copy of the head; on a CPU oneDNN may round them back to
    bfloat16, which they were, and takes its faster instructions. The products are exact in any
    case, and added up in float32.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._weight_VD = head.weight.detach()
        self._bias_V = None if head.bias is None else head.bias.detach().float()
        self._mixed = head.weight.is_cuda and _has_mixed_product(self._weight_VD)

    def forward(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        """[R, D] to float32 [R, V]."""
        if self._mixed:
            raw_RV = torch.mm(hidden_RD, self._weight_VD.t(), out_dtype=torch.float32)
        elif hidden_RD.dtype is self._weight_VD.dtype is torch.bfloat16:
            with _products_in_bfloat16():
                raw_RV = self._in_blocks(hidden_RD.float())
        else:
            raw_RV = self._in_blocks(hidden_RD.float())
        return raw_RV if self._bias_V is None else raw_RV.add_(self._bias_V)

    def _in_blocks(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        entries, width = self._weight_VD.shape
        raw_RV = hidden_RD.new_empty(len(hidden_RD), entries)
        block_BD = hidden_RD.new_empty(min(BLOCK, entries), width)
        for start in range(0, entries, BLOCK):
            part_BD = block_BD[: entries - start].copy_(self._weight_VD[start : start + BLOCK])
            torch.mm(hidden_RD, part_BD.t(), out=raw_RV[:, start : start + BLOCK])
        return raw_RV


def _has_mixed_product(weight_VD: torch.Tensor) -> bool:
    """Whether torch multiplies half precision into float32 on this device."""
    few = weight_VD.detach()[:16]
    try:
        return torch.mm(few, few.t(), out_dtype=torch.float32).dtype is torch.float32
    except (RuntimeError, TypeError, NotImplementedError):
        return False


@contextmanager
def _products_in_bfloat16() -> Iterator[None]:
    """Within it oneDNN may round float32 inputs of a product to bfloat16; sums stay float32."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None:  # torch before 2.9
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def split_head(model: PreTrainedModel) -> LanguageModelHead:
    """The two halves of a causal language model.

    Raises CheckpointError when the model has no body or head that transformers knows of.
    """
    body, head = model.base_model, model.get_output_embeddings()
    if body is model or head is None:
        raise CheckpointError(
            f"{type(model).__name__} has no separate body and head, so it is no causal language "
            "model that AutoModelForCausalLM would load. Use such a model."
        )
    values = model.config.get_text_config().to_dict()
    cap = values.get(SOFT_CAP)
    scale = float(values.get(MULTIPLIER) or 1.0) / float(values.get(DIVISOR) or 1.0)
    return LanguageModelHead(body, head, None if cap is None else float(cap), scale)


@torch.no_grad()
def check_head(
    model: PreTrainedModel,
    head: LanguageModelHead,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
) -> None:
    """Compare the halves with the model's own logits on a few tokens ([B, L] ids).

    Raises CheckpointError naming the architecture when they differ by more than rounding.
    """
    expected = model(input_ids=input_ids, attention_mask=attention_mask).logits.float()
    halves = head.logits(head.hidden(input_ids, attention_mask).flatten(0, 1)).view_as(expected)
    # Half precision carries 8 to 11 bits; the same operations in another order stay far inside.
    tolerance = 1e-3 if expected.dtype == next(model.parameters()).dtype else 5e-2
    spread = expected[torch.isfinite(expected)].abs().max().clamp_min(1)
    if not torch.allclose(halves, expected, rtol=0, atol=float(tolerance * spread), equal_nan=True):
        difference = float((halves - expected).abs().max())
        raise CheckpointError(
            f"{type(model).__name__} does something between its head and its logits that is not "
            f"known here: they differ by {difference:.3g}. Please report this architecture."
        )
