"""One source answers prompts: batched generation.

Axes: B prompts of a batch, L tokens with padding, A answers (those to one prompt stand together).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from infifusion.errors import NumericsError
from infifusion.teacher.window import window_of


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. temperature 0 is greedy; max_new_tokens counts the end of the turn."""

    max_new_tokens: int
    batch_size: int
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Answer:
    """Generated tokens without the end of the turn; finished: whether the model ended its turn, and
    was not cut off at the limit."""

    ids: list[int]
    finished: bool


class RefuseNaN(LogitsProcessor):
    """NumericsError where a logit is NaN or +Inf: it has an argmax, and so would give an answer."""

    def __init__(self, names: Sequence[str], model: str) -> None:
        """What the rows of the batch are called, and the model, for the error."""
        self._names, self._model = names, model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad_B = (torch.isnan(scores) | (scores == torch.inf)).any(dim=1)
        if bad_B.any():
            row = int(bad_B.nonzero()[0])
            raise NumericsError(
                f"The logits of {self._model} are NaN or Inf while it answers {self._names[row]}. "
                "Set dtype: float32 (or bfloat16 in place of float16) for this model, or check its "
                "weights."
            )
        return scores


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a turn by the model's settings and by its tokenizer's."""
    config = model.generation_config
    ends = config.eos_token_id if config is not None else None
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    own = tokenizer.eos_token_id
    return sorted({*listed, *([own] if isinstance(own, int) else [])})


def answer(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    ends: Sequence[int],
    sampling: Sampling,
    seed: int,
    names: Sequence[str],
) -> Iterator[dict[int, list[Answer]]]:
    """Yield {number of the prompt: its `samples` answers}, one batch at a time. names: what the
    prompts are called, for errors.

    Batches hold prompts that may generate equally many tokens, longest first, so that none has
    less room because of its neighbours. A prompt that leaves no room in the model's window is in
    no batch. The model's own sampling settings are replaced. Equal prompts, settings and seed give
    equal answers; the global random state is left as it was.
    """
    name = str(model.config.name_or_path)
    groups: dict[int, list[int]] = defaultdict(list)
    window = window_of(model.config.get_text_config())
    for number, ids in enumerate(prompts):
        room = sampling.max_new_tokens
        if window is not None:
            room = min(room, window - len(ids))
        if room > 0:
            groups[room].append(number)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for room, numbers in sorted(groups.items(), reverse=True):
            numbers.sort(key=lambda number: -len(prompts[number]))
            for start in range(0, len(numbers), sampling.batch_size):
                batch = numbers[start : start + sampling.batch_size]
                called = [names[n] for n in batch for _ in range(sampling.samples)]
                rows = _generate(
                    model,
                    [prompts[n] for n in batch],
                    room,
                    ends,
                    sampling,
                    RefuseNaN(called, name),
                )
                yield dict(zip(batch, rows, strict=True))


def _generate(
    model: PreTrainedModel,
    prompts: list[list[int]],
    room: int,
    ends: Sequence[int],
    sampling: Sampling,
    refuse: RefuseNaN,
) -> list[list[Answer]]:
    width = max(len(ids) for ids in prompts)
    pad = ends[0] if ends else 0
    ids_BL = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    mask_BL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    drawn = {}
    if sampling.temperature > 0:
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=room,
        do_sample=sampling.temperature > 0,
        num_return_sequences=sampling.samples,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
        **drawn,
    )
    # transformers fills what is not given here from the model's own settings.
    model.generation_config = config
    with torch.inference_mode():
        ids_AL = model.generate(  # pyright: ignore
            ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([refuse]),
        )
    answers = [_up_to_end(row, ends) for row in ids_AL[:, width:].tolist()]
    size = sampling.samples
    return [answers[start : start + size] for start in range(0, len(answers), size)]


def _up_to_end(row: list[int], ends: Iterable[int]) -> Answer:
    end = next((place for place, token in enumerate(row) if token in ends), None)
    return Answer(row if end is None else row[:end], finished=end is not None)
