"""How a model may answer several prompts: found out by asking it two, alone and together.

With transformers 5.23 some architectures (RWKV, RecurrentGemma) ignore the attention mask: beside a
longer prompt they answer another one than alone, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from infifusion.process.memory import ran_out
from infifusion.process.runtime import log
from infifusion.teacher.generate import generate
from infifusion.teacher.lm_head import split_head
from infifusion.teacher.packed import packed_layers
from infifusion.teacher.rows import Draw, Row, not_finite
from infifusion.teacher.window import window_of

SHORT, LONG, STEPS = 5, 11, 3  # tokens of the two prompts, and of their answers
SAME = {torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}
"""Most difference, in standard deviations of the logits, that the order of the sums makes: Qwen2.5
0.5B has 0.02 in bfloat16 (docs/performance.md), a prompt that sees its padding 0.1 to 2."""


class Way(Enum):
    """How rows run together."""

    JOINING = "while rows leave and join"
    PADDED = "in batches that end together"
    ALONE = "one by one"


_found: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()


def answers(
    model: PreTrainedModel, rows: Sequence[Row], *, ends: Sequence[int], at_once: int
) -> Iterator[Row]:
    """Yield every row when it is done, run as the model can be run (`way_of`).

    Raises NumericsError naming the row where a logit is NaN or +Inf.
    """
    way = way_of(model)
    size = 1 if way is Way.ALONE else at_once
    with packed_layers(model, size):
        if way is Way.JOINING:
            yield from generate(model, split_head(model), rows, ends=ends, at_once=size)
            return
        # Those of a batch may have equally many tokens, so that none has less room for others.
        waiting = sorted(rows, key=lambda row: (-row.room, -len(row.prompt)))
        while waiting:
            batch = [row for row in waiting[:size] if row.room == waiting[0].room]
            del waiting[: len(batch)]
            _generate(model, batch, ends)
            yield from batch


def way_of(model: PreTrainedModel) -> Way:
    """Asked once of every loaded model; what is not the first way is said in the log."""
    if model not in _found:
        _found[model] = _ask(model)
        if _found[model] is not Way.JOINING:
            why = {
                Way.PADDED: "a row cannot leave its cache",
                Way.ALONE: "beside a longer prompt it answers otherwise than alone",
            }
            log.info(
                "%s answers %s: %s",
                *(model.config.name_or_path, _found[model].value, why[_found[model]]),
            )
    return _found[model]


@torch.inference_mode()
def _ask(model: PreTrainedModel) -> Way:
    config = model.config.get_text_config()
    long = min(LONG, (window_of(config) or LONG + STEPS) - STEPS)
    if long < SHORT:
        return Way.ALONE  # no room for a question, nor for much of an answer
    ids = torch.arange(3, 3 + SHORT + long).mul(7919).remainder(config.vocab_size).tolist()
    prompts = [ids[:long], ids[long:]]
    if _works(_joining, model, prompts):
        return Way.JOINING
    return Way.PADDED if _works(_padded, model, prompts) else Way.ALONE


Seen = list[tuple[list[int], torch.Tensor]]
"""Tokens, and the logits [V] that a way of running gave behind them."""


def _works(way: Callable[..., Seen], model: PreTrainedModel, prompts: list[list[int]]) -> bool:
    """Whether a way gives what the model gives to each text alone, up to rounding; not where it
    fails."""
    try:
        seen = way(model, prompts)
    except Exception as error:  # architectures fail in many ways: no cache, no mask, no positions
        if ran_out(error):
            raise
        return False
    device = model.device.type
    autocast = torch.is_autocast_enabled(device)  # as where a model answers that trains
    dtype = torch.get_autocast_dtype(device) if autocast else model.dtype
    most = SAME.get(dtype, SAME[torch.float32])
    for ids, found in seen:
        row = torch.tensor([ids], device=model.device)
        out = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False)
        alone = out.logits[0, -1].float()
        # Broken weights (NaN): said where it answers.
        if float((found - alone).square().mean().sqrt()) > most * float(alone.std()):
            return False
    return True


def _padded(model: PreTrainedModel, prompts: list[list[int]]) -> Seen:
    """Some tokens of each prompt by transformers' generate, in one batch."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
    before = model.generation_config
    model.generation_config = config  # what is not given is filled from there
    try:
        out: Any = model.generate(  # pyright: ignore
            ids,
            attention_mask=mask.to(model.device),
            generation_config=config,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        model.generation_config = before
    said = out.sequences[:, width:].tolist()
    return [
        (prompt + said[row][:step], logits_RV[row].float())
        for step, logits_RV in enumerate(out.logits)
        for row, prompt in enumerate(prompts)
    ]


def _joining(model: PreTrainedModel, prompts: list[list[int]]) -> Seen:
    """Some tokens by our own loop, one row of which joins late."""
    seen: Seen = []

    class Watched(Draw):
        """Takes the first token of its prompt again and again, and remembers the logits."""

        def __init__(self, prompt: list[int]) -> None:
            super().__init__()
            self.greedy, self._ids = False, list(prompt)

        def token(self, logits_V: torch.Tensor) -> int:
            """The next one."""
            seen.append((list(self._ids), logits_V.float().clone()))
            self._ids.append(self._ids[0])
            return self._ids[0]

    long, short = prompts
    # Two places: the third joins when the second, which has one token, has left.
    asked = [(long, STEPS), (short + short[:1], 1), (short, STEPS - 1)]
    rows = [Row(n, ids, room, "", Watched(ids)) for n, (ids, room) in enumerate(asked)]
    list(generate(model, split_head(model), rows, ends=[], at_once=2))
    return seen


class _Choose(LogitsProcessor):
    """Leaves of every row's logits the token that the row takes."""

    def __init__(self, rows: Sequence[Row], model: str) -> None:
        self._rows, self._model = rows, model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, logits_V in zip(self._rows, scores, strict=True):
            if not torch.isfinite(logits_V.max()):
                raise not_finite(self._model, row)
            token = row.draw.token(logits_V)
            logits_V.fill_(-torch.inf)[token] = 0
        return scores


class _Ended(StoppingCriteria):
    """Which rows are whole by their tokens."""

    def __init__(self, rows: Sequence[Row], width: int) -> None:
        self._rows, self._width = rows, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        said = input_ids[:, self._width :].tolist()
        done = [
            row.ended is not None and row.ended(ids)
            for row, ids in zip(self._rows, said, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)


def _generate(model: PreTrainedModel, rows: Sequence[Row], ends: Sequence[int]) -> None:
    """Fill the rows by transformers' own generate; all of them have the same room."""
    width = max(len(row.prompt) for row in rows)
    pad = ends[0] if ends else 0
    ids_RL = torch.tensor([[pad] * (width - len(r.prompt)) + r.prompt for r in rows])
    mask_RL = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in rows])
    # transformers fills what is not given here from the model's own settings.
    config = model.generation_config = GenerationConfig(
        max_new_tokens=rows[0].room,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
    )
    with torch.inference_mode():
        made_RL = model.generate(  # pyright: ignore
            ids_RL.to(model.device),
            attention_mask=mask_RL.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Choose(rows, str(model.config.name_or_path))]),
            stopping_criteria=StoppingCriteriaList([_Ended(rows, width)]),
        )
    last = set(ends)
    for row, ids in zip(rows, made_RL[:, width:].tolist(), strict=True):
        row.ids = []
        for token in ids:
            row.ids.append(token)
            if row.is_done(last):
                break
