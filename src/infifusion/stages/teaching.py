"""Which source taught what: the figures and sample texts of a fused target, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.align.byte_spans import token_table
from infifusion.data.tokenizers import load_tokenizer, tokenizer_json
from infifusion.recipe import Recipe
from infifusion.types import Aligned, Example, Rendered, Target

SAMPLES_PER_DOMAIN = 3
BINS = 50
LONGEST_SAMPLE = 400
"""Tokens shown of a sample text."""


class TeachingView:
    """Collects mean weights by domain and along the data, and a few texts token by token."""

    def __init__(
        self,
        recipe: Recipe,
        names: list[str],
        examples: list[Example],
        pivot: Rendered,
        gold_R: NDArray[np.int32],
    ) -> None:
        pivot_model = recipe.pivot
        tokenizer = load_tokenizer(
            pivot_model.tokenizer or pivot_model.model,
            revision=pivot_model.revision,
            trust_remote_code=pivot_model.trust_remote_code,
        )
        self._bytes_V = token_table(tokenizer_json(tokenizer)).bytes_V
        self._names, self._examples, self._pivot, self._gold_R = names, examples, pivot, gold_R
        self._domains = sorted({example.domain for example in examples})
        shape = (len(self._domains), len(names))
        self._weight, self._positions = np.zeros(shape), np.zeros(len(self._domains))
        self._taught = np.zeros(len(self._domains))
        self._bins = min(BINS, len(examples))
        self._bin_weight = np.zeros((self._bins, len(names)))
        self._bin_positions = np.zeros(self._bins)
        self._samples: list[dict[str, Any]] = []
        self._left = dict.fromkeys(self._domains, SAMPLES_PER_DOMAIN)

    def add(self, begin: int, end: int, beliefs: Aligned, fused: Target) -> None:
        """Take in the rows of examples [begin, end)."""
        row_N1 = self._pivot.row_N1[begin : end + 1] - self._pivot.row_N1[begin]
        weight_NS = np.add.reduceat(fused.weight_ST, row_N1[:-1], axis=1).T
        taught_N = np.add.reduceat(fused.weight_ST.sum(axis=0) > 0, row_N1[:-1])
        for n, example in enumerate(self._examples[begin:end]):
            domain = self._domains.index(example.domain)
            place = (begin + n) * self._bins // len(self._examples)
            length = row_N1[n + 1] - row_N1[n]
            self._weight[domain] += weight_NS[n]
            self._positions[domain] += length
            self._taught[domain] += taught_N[n]
            self._bin_weight[place] += weight_NS[n]
            self._bin_positions[place] += length
            if self._left[example.domain]:
                self._left[example.domain] -= 1
                rows = slice(int(row_N1[n]), int(row_N1[n + 1]))
                self._samples.append(self._sample(begin + n, rows, beliefs, fused))

    def as_json(self) -> dict[str, Any]:
        """What fuse/<target>/weights.json holds."""
        return {
            "sources": self._names,
            "by_domain": {
                domain: (self._weight[d] / max(self._positions[d], 1)).round(4).tolist()
                for d, domain in enumerate(self._domains)
            },
            "taught_share": {
                domain: round(float(self._taught[d] / max(self._positions[d], 1)), 4)
                for d, domain in enumerate(self._domains)
            },
            "over_examples": [
                {
                    "example": place * len(self._examples) // self._bins,
                    "weights": (weight / max(count, 1)).round(4).tolist(),
                }
                for place, (weight, count) in enumerate(
                    zip(self._bin_weight, self._bin_positions, strict=True)
                )
            ],
            "examples": self._samples,
        }

    def _sample(self, number: int, rows: slice, beliefs: Aligned, fused: Target) -> dict[str, Any]:
        example = self._examples[number]
        first = int(self._pivot.row_N1[number])
        tokens = []
        for t in range(rows.start, min(rows.stop, rows.start + LONGEST_SAMPLE)):
            gold = int(self._gold_R[first + t - rows.start])
            given = fused.prob_TK[t][fused.ids_TK[t] == gold]
            taught = fused.weight_ST[:, t].sum() > 0
            tokens.append(
                {
                    "text": self._bytes_V[gold].decode(errors="replace"),
                    "weights": fused.weight_ST[:, t].round(4).tolist(),
                    "entropy": [
                        round(float(u), 4) if aligned else None
                        for u, aligned in zip(
                            beliefs.entropy_ST[:, t], beliefs.aligned_ST[:, t], strict=True
                        )
                    ],
                    "gold": round(float(given.sum()), 4) if taught else None,
                }
            )
        prompt = "\n".join(message["content"] for message in example.prompt)
        return {"id": example.id, "domain": example.domain, "prompt": prompt, "tokens": tokens}
