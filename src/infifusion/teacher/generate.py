"""Answers to many prompts at once: a row that has ended leaves the batch, and the next prompt takes
its place.

Longest prompts come first. Every row has its own room, its own end and, where answers are drawn,
its own random numbers, so an answer depends on its prompt alone, up to the rounding of a batch. A
model that cannot be run so (teacher.batching) is run by transformers, in batches that end together.

Axes: R rows, L tokens with padding on the left, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from infifusion.teacher.columns import Columns
from infifusion.teacher.lm_head import LanguageModelHead
from infifusion.teacher.rows import Row, not_finite

PREFILL_TOKENS = 4096
"""Tokens of prompts in a forward pass, padding included."""


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    halves: LanguageModelHead,
    rows: Sequence[Row],
    *,
    ends: Sequence[int],
    at_once: int,
) -> Iterator[Row]:
    """Yield every row when it is done, at most `at_once` of them under way.

    Raises NumericsError naming the row where a logit is NaN or +Inf.
    """
    waiting = sorted(rows, key=lambda row: -len(row.prompt))
    table, active = Columns(min(at_once, len(rows))), list[Row]()
    run, last = Runner(model, halves), set(ends)
    while waiting or active:
        new = _next_prompts(waiting, at_once - len(active))
        if new:
            del waiting[: len(new)]
            run.prefill(new, table)
        elif active:
            run.step(active, table)
        active += new
        # The last row takes the place of one that leaves: from the back, so that none is missed.
        for place in reversed(range(len(active))):
            row = active[place]
            if row.is_done(last):
                table.leave(place)
                active[place] = active[-1]
                active.pop()
                yield row


def _next_prompts(waiting: Sequence[Row], places: int) -> list[Row]:
    """The prompts that go through the model next: as many as there are places, and as fit into a
    forward pass."""
    if not places or not waiting:
        return []
    width = len(waiting[0].prompt)
    return list(waiting[: min(places, max(1, PREFILL_TOKENS // width))])


class Runner:
    """The two forward passes, and what they have in common."""

    def __init__(self, model: PreTrainedModel, halves: LanguageModelHead) -> None:
        self._device, self._halves = model.device, halves
        self._exact = halves.with_float32_logits()
        self._name = str(model.config.name_or_path)
        taken = inspect.signature(halves.body.forward).parameters
        self._takes_positions = "position_ids" in taken

    def prefill(self, rows: Sequence[Row], table: Columns) -> None:
        """Take the rows' prompts into the table, each once, and choose their first tokens."""
        prompts = list({tuple(row.prompt): row.prompt for row in rows}.values())
        width = max(map(len, prompts))
        ids_RL = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
        mask_RL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        cache = DynamicCache()
        position_RL = (mask_RL.cumsum(dim=1) - 1).clamp_min(0)
        hidden_RD = self._hidden(ids_RL, mask_RL, position_RL, cache)
        place = [prompts.index(row.prompt) for row in rows]
        table.join(cache, [(at, len(prompts[at])) for at in place])
        self._choose(hidden_RD[place], rows)

    def step(self, rows: Sequence[Row], table: Columns) -> None:
        """One more token of every row."""
        ids_R1 = torch.tensor([[row.ids[-1]] for row in rows])
        position_R1 = torch.tensor(table.lengths)[:, None]
        mask_RC = table.mask_RC(self._device)
        hidden_RD = self._hidden(ids_R1, mask_RC, position_R1, table.cache())
        table.step()
        self._choose(hidden_RD, rows)

    def _hidden(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: object
    ) -> torch.Tensor:
        """The last hidden state of every row: [R, D]."""
        more = {"position_ids": positions.to(self._device)} if self._takes_positions else {}
        out = self._halves.body(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            past_key_values=cache,
            use_cache=True,
            **more,
        )
        return out.last_hidden_state[:, -1]

    def _choose(self, hidden_RD: torch.Tensor, rows: Sequence[Row]) -> None:
        """Give every row its next token."""
        if all(row.draw.greedy for row in rows):
            tokens = self._halves.likeliest(hidden_RD)
        else:
            tokens = [
                row.draw.token(logits_V) if torch.isfinite(logits_V.max()) else -1
                for row, logits_V in zip(rows, self._exact.logits(hidden_RD), strict=True)
            ]
        for row, token in zip(rows, tokens, strict=True):
            if token < 0:
                raise not_finite(self._name, row)
            row.ids.append(token)
