"""Text that the pivot wrote, corrected: which places of a step are its, how it is kept, and as
batches beside given examples.

Axes: B rows, L tokens (padding included), R positions that are learnt, K kept entries, N answers,
T positions of all answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch.utils.data import Dataset

from infifusion.recipe import OnPolicy
from infifusion.store.durable import atomic_write
from infifusion.store.hashes import sha256_of_text
from infifusion.store.records import Json
from infifusion.types import Beliefs, Rendered

Pivot = Callable[[Rendered, list[str]], Beliefs]
"""What the pivot as it is now believes of some texts; the names of these, for errors."""


@dataclass(frozen=True)
class Drawn:
    """One answer of the pivot. prompt: its number; ids: the tokens drawn, the one that ended the
    turn among them; finished: whether there is such a one."""

    prompt: int
    ids: list[int]
    finished: bool


@dataclass(frozen=True)
class OwnRows:
    """Answers of the pivot with what the sources make of them, flat.

    of_N:     int64, which of the answers asked for each is; the others cannot be learnt.
    prompt_N: int64, the number of its prompt.
    ids_L, offset_N1, first_N, row_N1: as in types.Rendered: the tokens as they were drawn.
    ids_TK, prob_TK, weight_ST: as in types.Target.
    learnt_T: bool, positions that are learnt.
    before_T: float32, log-probability (nats) that the pivot gave each token when it wrote it.
    advantage_T: float32, see align/spans.py; 0 where the run learns whole distributions.
    """

    of_N: NDArray[np.int64]
    prompt_N: NDArray[np.int64]
    ids_L: NDArray[np.int32]
    offset_N1: NDArray[np.int64]
    first_N: NDArray[np.int32]
    row_N1: NDArray[np.int64]
    ids_TK: NDArray[np.int32]
    prob_TK: NDArray[np.float32]
    weight_ST: NDArray[np.float32]
    learnt_T: NDArray[np.bool_]
    before_T: NDArray[np.float32]
    advantage_T: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """As safetensors, whole or not at all."""
        arrays = {f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}
        with atomic_write(path) as temporary:
            save_file(arrays, temporary)

    @classmethod
    def none(cls, sources: int, keep: int) -> OwnRows:
        """Where no answer can be learnt."""
        no, none = np.zeros(0, np.int32), np.zeros(0, np.float32)
        start, entries_TK = np.zeros(1, np.int64), np.zeros((0, keep), np.float32)
        weight_ST = np.zeros((sources, 0), np.float32)
        layout = (no.astype(np.int64), no.astype(np.int64), no, start, no, start)
        rows = (entries_TK.astype(np.int32), entries_TK, weight_ST, no.astype(bool))
        return cls(*layout, *rows, none, none)

    @classmethod
    def load(cls, path: Path) -> OwnRows:
        """What `save` wrote."""
        return cls(**load_file(path))


@dataclass(frozen=True)
class Corrected:
    """What the sources make of some answers. sheet: figures of the round, a line for each answer,
    and a few of them token by token, as JSON."""

    rows: OwnRows
    sheet: Json


Correct = Callable[[Sequence[Drawn], Pivot, bool], Corrected]
"""(answers, the pivot, whether sample texts are wanted) -> what is to be learnt of them."""


@dataclass(frozen=True)
class OwnText:
    """What a run needs to learn from text that its pivot writes.

    prompts: the tokens of every prompt; names: what they are called; ends: the tokens that end a
    turn; batch_tokens: of a forward pass that scores answers; kept: entries of a target row;
    correct: the sources.
    """

    settings: OnPolicy
    prompts: list[list[int]]
    names: list[str]
    ends: list[int]
    batch_tokens: int
    kept: int
    correct: Correct


@dataclass(frozen=True)
class Places:
    """Which places of a step are the pivot's own, and how many came before.

    share: of all places; per_step: places of a step, of all processes. A round has `fresh` steps of
    new answers, each gone through `epochs` times.
    """

    share: float
    per_step: int
    fresh: int
    epochs: int

    @property
    def steps(self) -> int:
        """Optimizer steps of a round."""
        return self.fresh * self.epochs

    def own(self, step: int) -> list[int]:
        """The numbers, among all answers of the run, of those that a step learns; -1 in places of
        given examples: [per_step]."""
        number, after = divmod(step, self.steps)
        first = (number * self.fresh + after % self.fresh) * self.per_step
        before = [math.floor(place * self.share) for place in range(first, first + self.per_step)]
        ends = [math.floor((place + 1) * self.share) for place in range(first, first + len(before))]
        return [n if end > n else -1 for n, end in zip(before, ends, strict=True)]

    def given_before(self, step: int) -> int:
        """Given examples in all steps before this one."""
        number, after = divmod(step, self.steps)
        begin = number * self.fresh
        through, rest = divmod(after, self.fresh)
        whole = self._given(0, begin) * self.epochs
        return (
            whole
            + self._given(begin, begin + self.fresh) * through
            + self._given(begin, begin + rest)
        )

    def _given(self, begin: int, end: int) -> int:
        """Given examples of the fresh steps [begin, end)."""
        places = np.array([begin, end]) * self.per_step
        own = np.floor(places * self.share).astype(int)
        return int((places - own)[1] - (places - own)[0])


def in_turn(number: int, count: int, *, seed: int, what: str) -> int:
    """The thing that comes as `number` where `count` things are gone through again and again, in a
    new order each time."""
    turn, place = divmod(number, count)
    return int(_order(turn, count, seed, what)[place])


@lru_cache(maxsize=4)
def _order(turn: int, count: int, seed: int, what: str) -> np.ndarray:
    own = int(sha256_of_text(str(seed), what, str(turn))[:15], 16)
    return np.random.default_rng(own).permutation(count)


class Steps(Dataset[int]):
    """Stands for the data where rounds make the batches: as many places as whole steps have."""

    def __init__(self, places: int, per_step: int) -> None:
        self._length = -(-places // per_step) * per_step

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


Batch = dict[str, torch.Tensor]


def batch_of(
    rows: OwnRows, places: Sequence[int], *, name_from: int, gradient: bool, sequence: bool
) -> Batch:
    """Some answers as train.batches.Collator makes a batch, with the fields of types.SparseTarget
    for text of the pivot's own; only the positions that are learnt are in it.

    name_from: added to the number of a prompt. gradient: whether advantages are
    learnt. sequence: whether every answer counts the same.
    """
    length_N = np.diff(rows.offset_N1)[list(places)]
    ids_BL = np.zeros((len(places), int(length_N.max())), np.int64)
    mask_BL, predicts_BL = np.zeros_like(ids_BL), np.zeros(ids_BL.shape, bool)
    taken, gold, scale = [np.zeros(0, np.int64)], [rows.ids_L[:0]], [np.zeros(0, np.float32)]
    for b, n in enumerate(places):
        begin, end = rows.offset_N1[n : n + 2]
        ids_BL[b, : end - begin], mask_BL[b, : end - begin] = rows.ids_L[begin:end], 1
        row_T = np.arange(rows.row_N1[n], rows.row_N1[n + 1])
        learnt_T = rows.learnt_T[row_T]
        predicts_BL[b, rows.first_N[n] - 1 : end - begin - 1] = learnt_T
        taken.append(row_T[learnt_T])
        gold.append(rows.ids_L[begin + rows.first_N[n] : end][learnt_T])
        scale.append(np.full(learnt_T.sum(), 1 / max(learnt_T.sum(), 1), np.float32))
    row_R = np.concatenate(taken)
    batch = {
        "input_ids": ids_BL,
        "attention_mask": mask_BL,
        "predicts_BL": predicts_BL,
        "example_B": name_from + rows.prompt_N[list(places)],
        "gold_R": np.concatenate(gold).astype(np.int64),
        "taught_R": np.ones(len(row_R), bool),
        "ids_RK": rows.ids_TK[row_R].astype(np.int64),
        "prob_RK": rows.prob_TK[row_R],
        "own_R": np.ones(len(row_R), bool),
    }
    if gradient:
        batch |= {"advantage_R": rows.advantage_T[row_R], "before_R": rows.before_T[row_R]}
    if sequence:
        batch["scale_R"] = np.concatenate(scale)
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}


def given(batch: Batch, rows_of_each: Sequence[int], *, gradient: bool, sequence: bool) -> Batch:
    """A batch of given examples with the same fields. rows_of_each: positions of each example."""
    count = len(batch["gold_R"])
    more = {"own_R": torch.zeros(count, dtype=torch.bool)}
    if gradient:
        more |= {"advantage_R": torch.zeros(count), "before_R": torch.zeros(count)}
    if sequence:
        parts = [torch.full((rows,), 1 / rows) for rows in rows_of_each]
        more["scale_R"] = torch.cat(parts)
    kept = {name: value for name, value in batch.items() if name != "domain_R"}  # for gates alone
    return {**kept, **more}


def joined(first: Batch, second: Batch) -> Batch:
    """The examples of both, padded to the longer, in this order."""
    length = max(first["input_ids"].shape[1], second["input_ids"].shape[1])
    kept = max(first["ids_RK"].shape[1], second["ids_RK"].shape[1])
    wide = {"input_ids": (length, 0), "attention_mask": (length, 0), "predicts_BL": (length, 0)}
    wide |= {"ids_RK": (kept, -1), "prob_RK": (kept, 0)}

    def padded(name: str, part: torch.Tensor) -> torch.Tensor:
        if name not in wide:
            return part
        width, value = wide[name]
        return torch.nn.functional.pad(part, (0, width - part.shape[1]), value=value)

    return {
        name: torch.cat([padded(name, first[name]), padded(name, second[name])]) for name in first
    }


def nothing(prompt: list[int], kept: int, *, gradient: bool, sequence: bool) -> Batch:
    """A batch without anything to learn, where none of its answers can be learnt: all processes
    take every step together. prompt: some tokens."""
    ids_BL = torch.tensor([prompt[:2] or [0]])
    batch = {
        "input_ids": ids_BL,
        "attention_mask": torch.ones_like(ids_BL),
        "predicts_BL": torch.zeros(ids_BL.shape, dtype=torch.bool),
        "example_B": torch.zeros(0, dtype=torch.int64),
        "gold_R": torch.zeros(0, dtype=torch.int64),
        "taught_R": torch.zeros(0, dtype=torch.bool),
        "ids_RK": torch.zeros(0, kept, dtype=torch.int64),
        "prob_RK": torch.zeros(0, kept),
        "own_R": torch.ones(0, dtype=torch.bool),
    }
    if gradient:
        batch |= {"advantage_R": torch.zeros(0), "before_R": torch.zeros(0)}
    return {**batch, "scale_R": torch.zeros(0)} if sequence else batch
