"""Rounds: the pivot answers the prompts of the next steps, the sources correct it, it learns.

A step has as many places as without: its share of them are prompts that the pivot answers, the
others given examples. Which prompt or example takes which place follows from the seed and the
number of the step alone. A round's answers are written once, by the pivot as it is then, and kept
in rounds/ of the run's folder with what the sources made of them, signed: a run that goes on reads
them there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from infifusion.errors import ArtifactError
from infifusion.process.memory import BatchSize
from infifusion.process.meter import Meter
from infifusion.process.runaway import Runaway, in_words
from infifusion.process.runtime import log, rank, world_size
from infifusion.store.hashes import sha256_of_text
from infifusion.store.receipts import Pieces, hashes_of, receipt_of
from infifusion.store.records import read_json, write_json
from infifusion.teacher.batching import answers
from infifusion.teacher.forward import LOGIT_BYTES, Teacher, believe
from infifusion.teacher.lm_head import split_head
from infifusion.teacher.rows import Draw, Row
from infifusion.teacher.window import window_of
from infifusion.train.own_text import (
    Batch,
    Drawn,
    OwnRows,
    OwnText,
    Places,
    batch_of,
    given,
    in_turn,
    joined,
    nothing,
)
from infifusion.types import Beliefs, Rendered

ROUNDS = "rounds"
SAY_EVERY = 60.0
SHOWN = 5
"""Rounds whose first answers are kept token by token for the report."""


@dataclass(frozen=True)
class Given:
    """The examples beside the pivot's own text. numbers: those of the run; all: how many the data
    has. batch: makes a batch of some; rows: positions of one."""

    numbers: np.ndarray
    all: int
    batch: Callable[[list[int]], Batch]
    rows: Callable[[int], int]


class Rounds:
    """The batches of every step of a run that learns from its pivot's own text."""

    def __init__(
        self,
        own: OwnText,
        examples: Given,
        *,
        model: PreTrainedModel,
        autocast: Callable[[], AbstractContextManager[Any]],
        out: Path,
        seed: int,
        micro: int,
        accumulation: int,
        meter: Meter,
    ) -> None:
        """model: the pivot that is trained, whatever is wrapped around it. out: the stage's folder.
        micro: examples of a micro-batch."""
        settings = own.settings
        self._own, self._examples, self._model, self._autocast = own, examples, model, autocast
        self._out, self._seed, self._micro = out, seed, micro
        self._per_process = micro * accumulation
        per_step = self._per_process * world_size()
        self._places = Places(settings.share, per_step, settings.round_steps, settings.epochs)
        self._pieces = _RoundPieces(out)
        self._runaway = Runaway(settings.stop_at_growth)
        self._at_once = BatchSize(
            settings.batch_size, setting="on_policy.batch_size", less="smaller max_new_tokens"
        )
        self._meter = meter
        self._round, self._said = -1, -SAY_EVERY
        self._rows: OwnRows | None = None
        self._place_of: dict[int, int] = {}
        self.last: dict[str, float] = {}

    def is_healthy(self) -> bool:
        """Whether the answers are not on their way to running away."""
        return self._runaway.healthy

    def batches(self, step: int, steps: int) -> list[Batch]:
        """The micro-batches of this process for a step (from 0) of a run of `steps`."""
        number, after = divmod(step, self._places.steps)
        if number != self._round:
            self._open(number, after, steps)
        mine = slice(rank() * self._per_process, (rank() + 1) * self._per_process)
        own = self._places.own(step)
        others = np.cumsum([n < 0 for n in own]) - 1 + self._places.given_before(step)
        pairs = list(zip(own, others.tolist(), strict=True))[mine]
        starts = range(0, len(pairs), self._micro)
        return [self._batch(pairs[start : start + self._micro]) for start in starts]

    def _batch(self, pairs: list[tuple[int, int]]) -> Batch:
        """One micro-batch of places, each (number of its answer or -1, number of its example)."""
        settings = self._own.settings
        kinds = {
            "gradient": settings.form == "policy_gradient",
            "sequence": settings.reduction == "sequence",
        }
        parts = []
        numbers = [self._example(other) for n, other in pairs if n < 0]
        if numbers:
            rows = [self._examples.rows(n) for n in numbers]
            parts.append(given(self._examples.batch(numbers), rows, **kinds))
        places = [self._place_of[n] for n, _ in pairs if n in self._place_of]
        if places:
            assert self._rows is not None
            parts.append(batch_of(self._rows, places, name_from=self._examples.all, **kinds))
        if not parts:
            return nothing(self._own.prompts[0], self._own.kept, **kinds)
        return parts[0] if len(parts) == 1 else joined(*parts)

    def _example(self, number: int) -> int:
        count = len(self._examples.numbers)
        return int(self._examples.numbers[in_turn(number, count, seed=self._seed, what="given")])

    def _prompt(self, number: int) -> int:
        return in_turn(number, len(self._own.prompts), seed=self._seed, what="prompts")

    def _open(self, number: int, after: int, steps: int) -> None:
        """Read a round, or make it."""
        path = self._path(number)
        numbers, per_second = self._numbers(number, steps), None
        if not self._pieces.is_whole(path):
            if after:
                raise ArtifactError(
                    f"{path} is missing or damaged, and the pivot that wrote these answers is "
                    f"{after} steps behind. Delete {self._out / 'checkpoints'} and run again: the "
                    "run begins anew, with the rounds that are whole."
                )
            self._pieces.must_be_made(path)  # says so where it was damaged
            shown = number in _shown_rounds(-(-steps // self._places.steps)) and rank() == 0
            began = time.monotonic()
            self._make(path, numbers, shown)
            per_second = len(numbers) * world_size() / (time.monotonic() - began)
        if self._round < 0:
            self._remember(number)
        self._rows, self._round = OwnRows.load(path), number
        self._place_of = {numbers[n]: place for place, n in enumerate(self._rows.of_N.tolist())}
        figures = _of_all(read_json(sheet_of(path))["figures"])
        self._runaway.add(figures)
        self.last = self._runaway.last
        self._meter.note = in_words(number, figures, per_second)
        if rank() == 0 and self._meter.note and time.monotonic() - self._said > SAY_EVERY:
            self._said = time.monotonic()
            log.info("%s: %s", self._meter.title, self._meter.note)

    def _remember(self, number: int) -> None:
        """Take in the figures of the rounds before, where a run goes on."""
        for before in range(number):
            path = self._path(before)
            here = read_json(sheet_of(path))["figures"] if self._pieces.is_whole(path) else {}
            self._runaway.add(_of_all(here), judge=False)

    def _numbers(self, number: int, steps: int) -> list[int]:
        """The numbers of this process's answers of a round."""
        first = number * self._places.steps
        last = min(first + self._places.fresh, steps)
        mine = slice(rank() * self._per_process, (rank() + 1) * self._per_process)
        return [n for step in range(first, last) for n in self._places.own(step)[mine] if n >= 0]

    def _path(self, number: int) -> Path:
        several = f"-{rank() + 1}of{world_size()}" if world_size() > 1 else ""
        return self._out / ROUNDS / f"round-{number:06d}{several}.safetensors"

    def _make(self, path: Path, numbers: list[int], shown: bool) -> None:
        """Have the prompts answered and corrected, and keep what came of it."""
        drawn = self._at_once.fit(partial(self._answers, numbers)) if numbers else []
        corrected = self._own.correct(drawn, self._believes, shown)
        corrected.rows.save(path)
        write_json(sheet_of(path), corrected.sheet)
        self._pieces.sign(path)

    def _answers(self, numbers: list[int], at_once: int) -> list[Drawn]:
        """The pivot's answers, in the order of the numbers."""
        settings, ends = self._own.settings, {*self._own.ends}
        window = window_of(self._model.config.get_text_config())
        rows = []
        for place, number in enumerate(numbers):
            prompt = self._prompt(number)
            ids = self._own.prompts[prompt]
            room = settings.max_new_tokens
            room = room if window is None else min(room, window - len(ids))
            seed = int(sha256_of_text(str(self._seed), "answer", str(number))[:15], 16)
            draw = Draw(settings.temperature, settings.top_p, seed)
            rows.append(Row(place, ids, room, self._own.names[prompt], draw))
        done: dict[int, Drawn] = {}
        with _as_it_answers(self._model, self._autocast):
            for row in answers(self._model, rows, ends=self._own.ends, at_once=at_once):
                prompt = self._prompt(numbers[row.number])
                done[row.number] = Drawn(prompt, row.ids, row.ids[-1] in ends)
        return [done[place] for place in range(len(numbers))]

    def _believes(self, rendered: Rendered, names: list[str]) -> Beliefs:
        """What the pivot believes now."""
        size = int(self._model.config.get_text_config().vocab_size)
        head = split_head(self._model).with_float32_logits()
        rows = max(1, LOGIT_BYTES // (4 * size))
        pivot = Teacher(self._model, head, size, 1, self._own.batch_tokens, rows)
        with _as_it_answers(self._model, self._autocast):
            return believe(pivot, rendered, 0, len(rendered), names=names)


def sheet_of(path: Path) -> Path:
    """The round's figures and texts, beside its arrays."""
    return path.with_suffix(".json")


def sheets_of(out: Path) -> dict[int, list[Path]]:
    """The sheets of every round, one of each process: of as many processes as there are now, where
    a run that was started with another number left some of that, too."""
    made: dict[int, dict[int, list[Path]]] = {}
    for path in sorted((out / ROUNDS).glob("round-*.json")):
        _, number, *process = path.stem.split("-")
        of = int(process[0].partition("of")[2]) if process else 1
        made.setdefault(int(number), {}).setdefault(of, []).append(path)
    return {n: found.get(world_size()) or found[max(found)] for n, found in made.items()}


class _RoundPieces(Pieces):
    """A round is two files, named by the path of its arrays."""

    def __init__(self, stage: Path) -> None:
        super().__init__(stage, lambda path: hashes_of([path, sheet_of(path)], stage, sealed=True))

    def _receipt(self, piece: Path) -> Path:
        return receipt_of(self._stage, piece.stem)


def _shown_rounds(count: int) -> set[int]:
    """The rounds of which answers are kept token by token: from the first to the last."""
    return {round(place) for place in np.linspace(0, count - 1, min(SHOWN, count)).tolist()}


def _of_all(figures: dict[str, Any]) -> dict[str, float]:
    """The sums of all processes, which call this together."""
    parts: list[dict[str, Any]] = [figures]
    if dist.is_available() and dist.is_initialized():
        parts = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, figures)
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: float(sum(part.get(key, 0) for part in parts)) for key in keys}


@contextmanager
def _as_it_answers(
    model: PreTrainedModel, autocast: Callable[[], AbstractContextManager[Any]]
) -> Iterator[None]:
    """The model in evaluation mode, with its own forward in place of the one that gives losses.
    What is changed of its generation config meanwhile (teacher.batching) is not saved with it."""
    training, forward = model.training, vars(model).pop("forward", None)
    generation = model.generation_config
    model.eval()
    try:
        with torch.inference_mode(), autocast():
            yield
    finally:
        model.train(training)
        model.generation_config = generation
        if forward is not None:
            model.forward = forward
