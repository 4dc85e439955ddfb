"""Bits per byte of examples that are never trained on, while a model trains.

Axes: B batch, L tokens, R response positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from infifusion.train.batches import Collator, Conversations
from infifusion.types import Rendered, in_response

BITS = "bits_per_byte"
METRIC = f"eval_{BITS}"
"""What a checkpoint is judged by; of one domain alone, eval_DOMAIN_bits_per_byte."""
OF_ROWS = ("gold_R", "taught_R", "domain_R", "ids_RK", "prob_RK")

Score = Callable[[dict[str, torch.Tensor]], float]
"""The sum of the cross-entropy (nats) over a batch's positions, by the model as it is now."""


@dataclass(frozen=True)
class HeldOut:
    """Examples as the pivot sees them, the domain of each, and what they are called in the data."""

    rendered: Rendered
    domains: list[str]
    what: str

    def __len__(self) -> int:
        return len(self.rendered)

    def scores(self, score: Score, *, batch_size: int) -> dict[str, float]:
        """`METRIC` over all responses, and of each domain: their nats over ln 2 and their bytes.
        What stands before a response and the end of its turn are left out, as in `evaluate`."""
        nats = {}
        for domain in dict.fromkeys(self.domains):
            place_N = np.flatnonzero([one == domain for one in self.domains])
            length_N = np.diff(self.rendered.offset_N1)[place_N]
            order_N = place_N[np.argsort(-length_N, kind="stable")]  # a batch of equal lengths
            batches = [order_N[i : i + batch_size] for i in range(0, len(order_N), batch_size)]
            nats[domain] = sum(score(self._batch(batch)) for batch in batches), place_N
        bytes_N = _bytes(self.rendered)
        found = {
            f"eval_{domain}_{BITS}": total / math.log(2) / float(bytes_N[place_N].sum())
            for domain, (total, place_N) in nats.items()
        }
        whole = sum(total for total, _ in nats.values()) / math.log(2) / float(bytes_N.sum())
        return {name: round(value, 6) for name, value in {METRIC: whole, **found}.items()}

    def _batch(self, numbers: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """A batch of these examples in which only tokens of responses are predicted."""
        rendered = self.rendered
        conversations = Conversations(rendered, numbers)
        batch = Collator(rendered, None)([conversations[n] for n in range(len(numbers))])
        inside = in_response(rendered.start_R, rendered.row_N1)
        rows = [inside[slice(*rendered.row_N1[n : n + 2])] for n in numbers]
        kept_R = torch.from_numpy(np.concatenate(rows))
        predicts_BL = batch["predicts_BL"]
        predicts_BL[predicts_BL.clone()] = kept_R
        return {**batch, **{name: batch[name][kept_R] for name in OF_ROWS}}


def _bytes(rendered: Rendered) -> NDArray[np.int32]:
    """Bytes of each response: [N]."""
    first_N = np.maximum(rendered.start_R[rendered.row_N1[:-1]], 0)
    return rendered.start_R[rendered.row_N1[1:] - 1] - first_N


def curve(log_history: list[dict[str, float]]) -> list[dict[str, object]]:
    """The evaluations in a trainer's log: step, bits per byte, and those of every domain."""
    return [
        {
            "step": line["step"],
            BITS: line[METRIC],
            "domains": {
                key.removeprefix("eval_").removesuffix(f"_{BITS}"): value
                for key, value in sorted(line.items())  # a checkpoint has them in this order
                if key.startswith("eval_") and key.endswith(f"_{BITS}") and key != METRIC
            },
        }
        for line in log_history
        if METRIC in line
    ]
