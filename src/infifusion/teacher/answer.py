"""One source answers prompts: batched generation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infifusion.process.memory import BatchSize
from infifusion.recipe import Model, Teach
from infifusion.store.hashes import sha256_of_text
from infifusion.teacher.batching import answers
from infifusion.teacher.forward import believe, make_teacher
from infifusion.teacher.load import load_model
from infifusion.teacher.rows import Draw, Row
from infifusion.teacher.window import window_of
from infifusion.types import Beliefs, Rendered


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
    """Yield {number of the prompt: its `samples` answers} when all answers to it are there. names:
    what the prompts are called, for errors.

    `batch_size` prompts are under way at a time. A prompt that leaves no room in the model's window
    is left out. The model's own sampling settings are not followed. Every answer has random numbers
    of its own, by seed, prompt and sample: equal ones give equal answers, whatever the batch, up to
    its rounding.
    """
    yield from answer_by(
        lambda rows, at_once: answers(model, rows, ends=ends, at_once=at_once),
        prompts,
        window=window_of(model.config.get_text_config()),
        ends=ends,
        sampling=sampling,
        seed=seed,
        names=names,
    )


def answer_by(
    run: Callable[[Sequence[Row], int], Iterable[Row]],
    prompts: Sequence[list[int]],
    *,
    window: int | None,
    ends: Sequence[int],
    sampling: Sampling,
    seed: int,
    names: Sequence[str],
) -> Iterator[dict[int, list[Answer]]]:
    """The same by whatever runs rows: run(rows, how many at once) yields each when it is done.
    window: most tokens of a text."""
    rows = []
    for number, ids in enumerate(prompts):
        room = sampling.max_new_tokens
        if window is not None:
            room = min(room, window - len(ids))
        if room < 1:
            continue
        for sample in range(sampling.samples):
            own = int(sha256_of_text(str(seed), str(number), str(sample))[:15], 16)
            draw = Draw(sampling.temperature, sampling.top_p, own)
            rows.append(Row(number * sampling.samples + sample, ids, room, names[number], draw))
    found: dict[int, dict[int, Answer]] = defaultdict(dict)
    at_once = sampling.batch_size * sampling.samples
    for row in run(rows, at_once):
        number, sample = divmod(row.number, sampling.samples)
        found[number][sample] = _up_to_end(row.ids, ends)
        if len(found[number]) == sampling.samples:
            done = found.pop(number)
            yield {number: [done[sample] for sample in range(sampling.samples)]}


def _up_to_end(row: list[int], ends: Iterable[int]) -> Answer:
    end = next((place for place, token in enumerate(row) if token in ends), None)
    return Answer(row if end is None else row[:end], finished=end is not None)


class Here:
    """A source in this process."""

    def __init__(self, model: Model, settings: Teach) -> None:
        self._teacher = make_teacher(
            load_model(model),
            top_k=1,
            batch_tokens=settings.batch_tokens,
            head_rows=settings.head_rows,
        )
        self._tokens = BatchSize(
            settings.batch_tokens,
            setting="teach.batch_tokens",
            less="a smaller teach.head_rows",
        )
        self.window = window_of(self._teacher.model.config.get_text_config())

    def ends(self, tokenizer: PreTrainedTokenizerBase, stops: Iterable[int]) -> list[int]:
        """The tokens at which it stops."""
        return end_ids(self._teacher.model, tokenizer)

    def run(self, rows: Sequence[Row], at_once: int, ends: Sequence[int]) -> Iterator[Row]:
        """Every row when it is done."""
        return answers(self._teacher.model, rows, ends=ends, at_once=at_once)

    def entropy(self, rendered: Rendered, names: list[str]) -> NDArray[np.float32]:
        """Of every position, in nats."""

        def work(size: int) -> Beliefs:
            sized = replace(self._teacher, batch_tokens=size)
            return believe(sized, rendered, 0, len(rendered), names=names)

        return self._tokens.fit(work).entropy_U
