"""How long examples are, and what batches they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Batches(NamedTuple):
    """A way through some examples: batches, padded tokens, and the sum of B L^2 over batches."""

    calls: float
    tokens: float
    token_context: float


@dataclass(frozen=True)
class Lengths:
    """One split as one model sees it.

    tokens, positions: of all examples; positions are the rows of the response, end of turn
    included. sample: ascending lengths in tokens of all examples or of a fair sample of them.
    """

    examples: int
    tokens: float
    positions: float
    sample: Sequence[int]

    @property
    def longest(self) -> int:
        """Tokens of the longest example seen."""
        return max(self.sample, default=0)

    @property
    def rows_of_longest(self) -> float:
        """Response rows of the longest example, at the mean share of response tokens."""
        return self.longest * self.positions / max(self.tokens, 1)

    def share(self, part: float) -> Lengths:
        """The same distribution over a part of the examples."""
        return Lengths(
            round(self.examples * part), self.tokens * part, self.positions * part, self.sample
        )

    def quantiles(self, count: int) -> list[int]:
        """`count` lengths spread evenly over the sample, descending."""
        n = len(self.sample)
        return [self.sample[min(n - 1, int((i + 0.5) * n / count))] for i in reversed(range(count))]

    def longest_of(self, count: int) -> float:
        """Expected length of the longest of `count` examples drawn at random.

        sum_i l_i ((i/n)^c - ((i-1)/n)^c) over the ascending sample: the c-th order statistic of
        the empirical distribution, drawn with replacement.
        """
        n = len(self.sample)
        return sum(
            length * (((i + 1) / n) ** count - (i / n) ** count)
            for i, length in enumerate(self.sample)
        )

    def by_length(self, shard_examples: int, batch_tokens: int) -> Batches:
        """As the teacher pass goes: shard by shard, longest first, batches of padded tokens."""
        if self.examples == 0:
            return Batches(0, 0, 0)
        calls = tokens = context = 0.0
        for size in (shard_examples, self.examples % shard_examples):
            times = self.examples // shard_examples if size == shard_examples else 1
            if size == 0 or times == 0:
                continue
            shard, start = self.quantiles(size), 0
            while start < size:
                longest = shard[start]
                batch = min(max(1, batch_tokens // max(longest, 1)), size - start)
                calls += times
                tokens += times * batch * longest
                context += times * batch * longest**2
                start += batch
        return Batches(calls, tokens, context)

    def at_random(self, examples: float, batch: int) -> Batches:
        """As training goes: `examples` in random batches, each padded to its longest."""
        calls = math.ceil(examples / batch)
        longest = self.longest_of(batch)
        return Batches(calls, calls * batch * longest, calls * batch * longest**2)
