"""A causal language model in two halves: hidden states, and the head that makes logits of them.

Logits of a whole batch are the largest tensor of the teacher pass and of the loss; with the halves
apart the head runs over a few positions at a time. `check_head` compares the halves with the
model's own logits, so that an architecture which does something else there is refused.

Axes: B batch, L tokens, D hidden size, R positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from infifusion.errors import CheckpointError

# What architectures do to the head's output, by config field: Gemma 2 and 3 cap, Cohere
# multiplies, Granite divides.
SOFT_CAP = "final_logit_softcapping"
MULTIPLIER = "logit_scale"
DIVISOR = "logits_scaling"


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

    def finish(self, raw_RV: torch.Tensor) -> torch.Tensor:
        """What the model does to the output of its head: float32, scaled, capped."""
        logits_RV = raw_RV.float()
        if self.scale != 1.0:  # one pass over the largest tensor there is
            logits_RV = logits_RV * self.scale
        if self.soft_cap is not None:
            logits_RV = torch.tanh(logits_RV / self.soft_cap) * self.soft_cap
        return logits_RV


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
