"""One answer under way: its prompt, its room, how its tokens are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from infifusion.errors import NumericsError


class Draw:
    """Greedy at temperature 0; else softmax(logits / temperature), cut to the fewest tokens whose
    probabilities add up to top_p (Holtzman et al. 2020, arXiv 1904.09751v2)."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        """seed: of this row alone."""
        self.greedy = temperature == 0
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self._generator = torch.Generator().manual_seed(seed % 2**63)

    def token(self, logits_V: torch.Tensor) -> int:
        """One token by its float32 logits [V]."""
        if self.greedy:
            return int(logits_V.argmax())
        prob_V = (logits_V / self.temperature).softmax(dim=0).cpu()
        if self.top_p >= 1:
            return int(torch.multinomial(prob_V, 1, generator=self._generator))
        sorted_V, ids_V = prob_V.sort(descending=True, stable=True)
        # A token stays while those before it have less than top_p together: the first always does.
        sorted_V[sorted_V.cumsum(dim=0) - sorted_V >= self.top_p] = 0
        return int(ids_V[torch.multinomial(sorted_V, 1, generator=self._generator)])


@dataclass
class Row:
    """One answer under way.

    number: whose it is, for the caller. room: most tokens that it may have. name: for errors.
    ended: whether its tokens are a whole answer; None where the end tokens alone tell. stops: the
    texts by which `ended` tells, for a server that is to stop there. ids: its tokens so far, the
    end token among them.
    """

    number: int
    prompt: list[int]
    room: int
    name: str
    draw: Draw
    ended: Callable[[list[int]], bool] | None = None
    stops: tuple[str, ...] = ()
    ids: list[int] = field(default_factory=list)

    def is_done(self, ends: set[int]) -> bool:
        """Whether no token is to follow."""
        full = len(self.ids) >= self.room or self.ids[-1] in ends
        return full or (self.ended is not None and self.ended(self.ids))


def not_finite(model: str, row: Row) -> NumericsError:
    """Raised where a logit is NaN or +Inf: it has an argmax, and so would give an answer."""
    return NumericsError(
        f"The logits of {model} are NaN or Inf while it answers {row.name}. Set dtype: float32 (or "
        "bfloat16 in place of float16) for this model, or check its weights."
    )
