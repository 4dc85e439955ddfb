"""A model with another model's vocabulary: a row for every token of it, made of the model's own.

A token that both have keeps its row. A new one becomes a sum of others: `omp` finds the sum of
shared tokens that makes the donor's row of it, and takes the same sum of the model's rows (Goddard
and Fernandes Neto, 2506.06607); `pieces` takes the mean of the rows of the tokens that the model's
own tokenizer makes of it.

Axes: V rows of the result, M new tokens, K rows that each is made of, N shared tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.blocks.blocks import Parallel
from infifusion.merge.blocks.pursuit import Sums, means_of, mix, sums_of_anchors
from infifusion.merge.blocks.stored import encode, not_finite
from infifusion.merge.checkpoints.views import Rows
from infifusion.merge.checkpoints.writer import SHARD_BYTES, Spec
from infifusion.merge.engine.beside import OF_TOKENIZERS, side_files
from infifusion.merge.engine.checks import answered, described
from infifusion.merge.engine.model import TIED_HEAD, Model
from infifusion.merge.engine.result_config import (
    in_other_tokens,
    moved_ids,
    write_special_ids,
)
from infifusion.merge.engine.vocabulary import BY_TOKEN
from infifusion.merge.engine.walker import Put, Task, carry_out, copying, usable_threads
from infifusion.merge.engine.weights import stamps
from infifusion.process.bar import progress_bar
from infifusion.store.records import write_json

DETAILS = "transplant_details.json"
METHODS = ("omp", "pieces")
ROWS = 4096  # of a matrix that are in memory
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.(weight|bias)$")
# Rows of tokens that are no embedding of the whole model: what would be wrong without a word.
PER_LAYER = re.compile(r"embed_tokens_per_layer|per_layer_embed")
Json = dict[str, Any]


@dataclass(frozen=True)
class Vocabularies:
    """Which rows two vocabularies have in common. own_V: the model's row of the donor's token, or
    -1; named_V: whether a row is a token. model_N, donor_N: rows of the shared tokens that others
    are made of. pieces: for each new token the model's rows of what its own tokenizer makes of
    it."""

    own_V: np.ndarray
    named_V: np.ndarray
    model_N: np.ndarray
    donor_N: np.ndarray
    pieces: dict[int, list[int]]
    old: Any
    new: Any

    @property
    def new_M(self) -> np.ndarray:
        """The new tokens."""
        return np.flatnonzero(self.named_V & (self.own_V < 0))


def transplant(
    model: Model,
    donor: Model | None,
    donor_folder: Path,
    words: Vocabularies,
    out: Path,
    *,
    method: str = "omp",
    count: int = 64,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    beside: Callable[[Path], None] = lambda folder: None,
) -> tuple[Json, list[str]]:
    """Write the model with the donor's tokens into the new folder `out`; what
    transplant_details.json holds, and notes. donor: None where the method does without its weights.
    count: shared tokens that a new one is made of. beside: what else is to be written.

    Raises CheckpointError where the model has other rows by token than embedding and head, where
    the config needs a token that the donor lacks, and where the result would not load.
    """
    workers = threads or usable_threads()
    tensors = _by_token(model)
    config = in_other_tokens(model, words.old, words.new, len(words.own_V))
    specs = _specs(model, tensors, len(words.own_V))
    said = {name: (one.dtype, one.shape) for name, one in specs.items()}
    question = {"models": [described(model)], "config": config, "specs": said, "layers": []}
    notes = answered(question)["notes"]
    sums = _sums(tensors, model, donor, words, method, count, workers)
    tasks = {
        name: Task(
            spec,
            _rows(model, name, words, sums[name], spec.dtype)
            if name in tensors
            else copying(model, name, spec.dtype),
        )
        for name, spec in specs.items()
    }
    details: Json = {
        "model": model.name,
        "donor": str(donor_folder),
        "method": method,
        "tokens": int(words.named_V.sum()),
        "copied": int((words.own_V >= 0).sum()),
        "new": len(words.new_M),
        "shared": len(words.model_N),
        "tensors": [{"name": name, "lacks": sums[name].left} for name in tensors],
    }

    def finish(folder: Path, _: Json) -> None:
        _copy_side_files(model, donor_folder, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_special_ids(folder, partial(moved_ids, old=words.old, new=words.new))
        write_json(folder / DETAILS, details)
        beside(folder)

    rows = hashlib.sha256()
    for name in tensors:
        rows.update(sums[name].row_MK.tobytes() + sums[name].weight_MK.tobytes())
    carry_out(
        tasks,
        out,
        identity={
            "transplant": details,
            "rows": hashlib.sha256(words.own_V.tobytes()).hexdigest() + rows.hexdigest(),
            "files": {str(model.folder): stamps(model)},
        },
        finish=finish,
        threads=workers,
        shard_bytes=shard_bytes,
    )
    return details, notes


def _specs(model: Model, tensors: list[str], rows: int) -> dict[str, Spec]:
    """What every tensor of the result will be."""
    kept = [n for n in model.checkpoint.names if n != TIED_HEAD or n in tensors]
    shapes = {n: model.shape(n) for n in kept}
    shapes |= {n: (rows, *shapes[n][1:]) for n in tensors}
    return {n: Spec(model.checkpoint.dtype(n), shape) for n, shape in shapes.items()}


def _by_token(model: Model) -> list[str]:
    """The model's tensors with a row per token. A head that only repeats the embedding of a tied
    model is left out."""
    odd = [name for name in model.checkpoint.names if PER_LAYER.search(name)]
    if odd:
        raise CheckpointError(
            f"{model.folder}: {odd[0]} has rows by token for every layer; only embeddings and "
            "heads can be given another vocabulary."
        )
    found = [name for name in model.checkpoint.names if BY_TOKEN.search(name)]
    if model.embedding is None or model.embedding not in found:
        raise CheckpointError(
            f"{model.folder} has no embedding of tokens under one of the usual names "
            "(embed_tokens.weight, wte.weight, ...)."
        )
    rows = model.shape(model.embedding)[0]
    for name in found:
        if model.shape(name)[0] != rows:
            raise CheckpointError(
                f"{model.folder}: {name} has {model.shape(name)[0]} rows, the embedding {rows}. "
                "Which of them are tokens is not known."
            )
    if model.tied and TIED_HEAD in found and not model.has_own_head:
        found.remove(TIED_HEAD)
    return found


def _sums(
    tensors: list[str],
    model: Model,
    donor: Model | None,
    words: Vocabularies,
    method: str,
    count: int,
    workers: int,
) -> dict[str, Sums]:
    """How each tensor's new rows are made."""
    if method == "pieces":
        made_of = [words.pieces.get(int(one), []) for one in words.new_M]
        return dict.fromkeys(tensors, means_of(made_of))
    if donor is None or donor.embedding is None:
        raise RecipeError("omp needs the donor's weights. Give its folder, or --method pieces.")
    if not len(words.model_N):
        raise CheckpointError(
            f"{model.folder} and {donor.folder} have no token in common, of which new ones could "
            "be made. Give --method pieces."
        )
    made: dict[str, Sums] = {}
    found: dict[str, Sums] = {}
    for name in tensors:
        theirs = donor.embedding
        if HEAD.search(name):
            heads = [n for n in donor.checkpoint.names if HEAD.search(n) and n.endswith("weight")]
            theirs = heads[0] if heads else theirs
        if theirs not in made:
            made[theirs] = _of_shared(donor, theirs, words, count, workers)
        found[name] = made[theirs]
    return found


def _of_shared(donor: Model, name: str, words: Vocabularies, count: int, workers: int) -> Sums:
    """The donor's rows of the new tokens as sums of its rows of the shared ones."""
    rows = _rows_of(donor, name)
    new_M = words.new_M

    def finite(values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"The tensor {name} of {donor.name} holds NaN or Inf: no sums can be made of its "
                "rows. Take another checkpoint of the donor, or --method pieces."
            )
        return values

    with (
        progress_bar("transplant", len(new_M), "tokens") as meter,
        ThreadPoolExecutor(workers) as pool,
    ):

        def read(part: slice) -> np.ndarray:
            meter.advance(len(new_M[part]))
            here_B = new_M[part]
            known_B = here_B < rows.count
            return finite(rows[np.minimum(here_B, rows.count - 1)] * known_B[:, None])

        anchor_ND = finite(rows[words.donor_N])
        found = sums_of_anchors(read, len(new_M), anchor_ND, count, parallel=pool.map)
    return replace(found, row_MK=words.model_N[found.row_MK])


def _rows_of(model: Model, name: str) -> Rows:
    shape = model.shape(name)
    return Rows(*model.read(name), shape[0], math.prod(shape[1:]))


def _rows(
    model: Model, name: str, words: Vocabularies, sums: Sums, dtype: str
) -> Callable[[Parallel, Put], Json]:
    """What writes one tensor with the new rows. What is no token, or no sum of others, gets the
    mean of the rows (Hewitt, "Initializing new word embeddings")."""

    def merge(parallel: Parallel, put: Put) -> Json:
        rows = _rows_of(model, name)
        mean_D = rows.mean(_tokens_of(words.old, rows.count))
        used_U, place_MK = np.unique(sums.row_MK, return_inverse=True)
        used_UD = rows[used_U]
        place_MK = place_MK.reshape(sums.row_MK.shape)
        number_V = np.full(len(words.own_V), -1, np.int64)
        number_V[words.new_M] = np.arange(len(words.new_M))
        lone_M = ~sums.weight_MK.any(axis=1)
        for start in range(0, len(words.own_V), ROWS):
            own_R, number_R = (a[start : start + ROWS] for a in (words.own_V, number_V))
            out_RD = np.tile(mean_D, (len(own_R), 1))
            out_RD[own_R >= 0] = rows[own_R[own_R >= 0]]
            made_R = np.flatnonzero(number_R >= 0)
            made_R = made_R[~np.asarray(lone_M)[number_R[made_R]]]
            made_RD = np.empty((len(made_R), rows.width), np.float32)
            m = number_R[made_R]
            mix(used_UD, place_MK[m], sums.weight_MK[m], made_RD)
            out_RD[made_R] = made_RD
            values = encode(out_RD.reshape(-1), dtype)
            if not_finite(values, dtype):
                raise CheckpointError(f"The tensor {name} of {model.name} holds NaN or Inf.")
            put(start * rows.width, values)
        return {}

    return merge


def _tokens_of(tokenizer: Any, rows: int) -> np.ndarray:
    return np.unique([one for one in tokenizer.get_vocab().values() if one < rows])


def _copy_side_files(model: Model, donor: Path, folder: Path) -> None:
    """The model's generation config and code, the donor's tokenizer and templates."""
    both: Sequence[tuple[Path, bool]] = ((model.home, False), (donor, True))
    for place, of_tokenizer in both:
        for one in side_files(place):
            if bool(OF_TOKENIZERS.search(str(one))) == of_tokenizer:
                (folder / one).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place / one, folder / one)
