"""An adapter made of two models: what one was trained to beside the other, as W + B A.

Every matrix's change is cut at its largest singular values, by a randomised search (Halko,
Martinsson and Tropp, 0909.4061, algorithms 4.4 and 5.1): a few random vectors, turned towards the
largest by the change and back, twice, and the exact values inside what they span. Norms and biases
are stored whole.

Axes: M rows and C columns of a matrix, R rank, L vectors of the search.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.blocks.stored import decode
from infifusion.merge.checkpoints.architecture import Architecture
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.checkpoints.lora import PREFIX, WEIGHTS
from infifusion.merge.checkpoints.lora_config import CONFIG
from infifusion.merge.checkpoints.tokens import same_tokens
from infifusion.merge.checkpoints.views import as_float32
from infifusion.merge.engine.checks import answered, described
from infifusion.merge.engine.layout import in_layout_of
from infifusion.merge.engine.model import TIED_HEAD, Model
from infifusion.merge.engine.tensors import is_optional
from infifusion.merge.engine.walker import seed_of
from infifusion.process.bar import progress_bar
from infifusion.store.durable import atomic_folder
from infifusion.store.records import write_json

DETAILS = "extract_details.json"
READ = 1 << 18  # elements that are converted at once
MORE = 8  # random vectors beyond the rank: with 5 to 10 the error is near the smallest possible
ROUNDS = 2  # one or two do for slowly falling singular values (ibid., 4.5)


@dataclass
class Extracted:
    """What an adapter will hold. tensors: by PEFT's names; errors: per matrix, the share of its
    change (Frobenius norm) that the adapter lacks; left_out: what no adapter can carry."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    transposed: bool = False
    biases: bool = False
    lost: float = 0.0
    changed: float = 0.0

    @property
    def error(self) -> float:
        """The share of the whole change that the adapter lacks."""
        return (self.lost / self.changed) ** 0.5 if self.changed else 0.0


def extract_lora(base: Model, tuned: Model, out: Path, *, rank: int, seed: int = 0) -> Json:
    """Write an adapter of `base` that brings it near `tuned` into the new folder `out`; returns
    what extract_details.json holds.

    Raises CheckpointError where the two are no models of one architecture, or are equal;
    RecipeError for a rank below 1.
    """
    if rank < 1:
        raise RecipeError(f"--rank {rank}: a rank is a whole number from 1 on.")
    if base.adapters:
        raise RecipeError(
            f"{base.name}: the model that an adapter fits is one without an adapter, so that PEFT "
            "can load it. Merge it first (merge_method: passthrough) and give that folder."
        )
    known = base.architecture
    if isinstance(known, str):
        raise CheckpointError(
            f"{base.folder}: {known}; without it nobody knows which of its matrices an adapter can "
            "change."
        )
    tuned = in_layout_of(base, tuned)
    notes = _notes(base, tuned)
    with atomic_folder(out) as folder:
        found = Extracted()
        work = list(_pairs(base, tuned, known))
        with progress_bar("extract", len(work), "tensors") as meter:
            for one in work:
                _take(found, one, base, tuned, known, rank, seed)
                meter.advance()
        if not found.errors and not found.saved and not found.biases:
            raise CheckpointError(
                f"{tuned.folder} does not differ from {base.folder} in anything that an adapter "
                f"can carry{': ' + found.left_out[0] if found.left_out else ''}."
            )
        _write(found, base, folder, rank)
        details = _details(found, base, tuned, rank) | {"notes": notes}
        write_json(folder / DETAILS, details)
    return details


Json = dict[str, Any]
Pair = tuple[str, str, str]  # own name, and the stored names in base and tuned


def _notes(base: Model, tuned: Model) -> list[str]:
    """What the two models' configs and tokenizers say otherwise, which no adapter carries.
    CheckpointError where the models calculate otherwise."""
    found = answered(
        {
            "models": [described(base), described(tuned)],
            "config": base.config,
            "specs": {n: (base.checkpoint.dtype(n), base.shape(n)) for n in base.checkpoint.names},
            "layers": [],
        }
    )
    try:
        return [*found["notes"], *same_tokens(base, [tuned])]
    except CheckpointError as error:
        said = str(error).partition(";")[0]
        return [*found["notes"], f"{said}: use the adapter with the latter's tokenizer."]


def _pairs(base: Model, tuned: Model, known: Architecture) -> Iterator[Pair]:
    """Every tensor of the two, the head of tied models too."""
    names = [*base.checkpoint.names, *([TIED_HEAD] if TIED_HEAD not in base.checkpoint else [])]
    more = [n for n in tuned.checkpoint.names if n not in names and not is_optional(tuned, n)]
    if more:
        raise CheckpointError(
            f"{tuned.folder} ({tuned.name}) has the tensor {more[0]}, which {base.folder} lacks. "
            "An adapter is made of two models of one architecture and depth."
        )
    for name in names:
        one, other = base.source_of(name), tuned.source_of(name)
        if one not in base.checkpoint and other not in tuned.checkpoint:
            continue
        if one not in base.checkpoint or other not in tuned.checkpoint:
            lacks = base if one not in base.checkpoint else tuned
            raise CheckpointError(
                f"{lacks.folder} ({lacks.name}) lacks the tensor {name}. An adapter is made of two "
                "models of one architecture."
            )
        if base.shape(one) != tuned.shape(other):
            raise CheckpointError(
                f"The tensor {name} has shape {list(base.shape(one))} in {base.folder} and "
                f"{list(tuned.shape(other))} in {tuned.folder}. An adapter is made of two models "
                "of one architecture and vocabulary."
            )
        yield known.own_name(name)[0], one, other


def _take(
    found: Extracted,
    pair: Pair,
    base: Model,
    tuned: Model,
    known: Architecture,
    rank: int,
    seed: int,
) -> None:
    own, one, other = pair
    dtypes = base.checkpoint.dtype(one), tuned.checkpoint.dtype(other)
    if not FLOATS.issuperset(dtypes):
        same = np.array_equal(base.checkpoint.array(one), tuned.checkpoint.array(other))
        if dtypes[0] != dtypes[1] or not same:
            found.left_out.append(one)
        return
    delta = _delta(base, one, tuned, other)
    size = float(np.vdot(delta, delta))
    found.changed += size
    kind = _kind(known, own)
    if size == 0:
        return
    module, _, last = own.rpartition(".")
    if kind in ("Linear", "Conv1D", "Embedding") and last == "weight":
        turned = kind == "Conv1D"
        a, b = cut(delta.T if turned else delta, rank, seed=seed_of(seed, own))
        lost = max(size - float((b * b).sum()), 0.0)  # A has orthonormal rows
        found.errors[own], found.lost = (lost / size) ** 0.5, found.lost + lost
        found.ranks[module] = len(a)
        found.transposed |= turned
        names = ("lora_A.weight", "lora_B.weight")
        if kind == "Embedding":  # PEFT: W + (B A)^T
            names, (a, b) = ("lora_embedding_A", "lora_embedding_B"), (b.T, a.T)
        for name, values in zip(names, (a, b), strict=True):
            found.tensors[f"{PREFIX}{module}.{name}"] = np.ascontiguousarray(values)
    elif last == "bias" or (last == "weight" and own in known.tensors):
        found.biases |= last == "bias"
        if last != "bias":
            found.saved.add(re.sub(r".*\.", "", module))
        found.tensors[f"{PREFIX}{own}"] = _whole(tuned, other).reshape(tuned.shape(other))
    else:
        found.left_out.append(one)
        found.lost += size


def cut(delta_MC: np.ndarray, rank: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A [R, C], with orthonormal rows, and B [M, R], such that B A is near the matrix: the best of
    that rank where it is small, near it where the search is random."""
    M, C = delta_MC.shape
    R = min(rank, M, C)
    if min(M, C) <= 4 * (R + MORE):
        _, _, right = np.linalg.svd(delta_MC, full_matrices=False)
        a = right[:R]
        return a.astype(np.float32), (delta_MC @ a.T).astype(np.float32)
    right_CL = np.random.default_rng(seed).standard_normal((C, R + MORE), dtype=np.float32)
    for _ in range(ROUNDS):
        right_CL, _ = np.linalg.qr(delta_MC.T @ (delta_MC @ right_CL))
    left_ML = delta_MC @ right_CL
    _, turned_LL = np.linalg.eigh((left_ML.T @ left_ML).astype(np.float64))  # smallest first
    best_LR = turned_LL[:, : -R - 1 : -1].astype(np.float32)
    return np.ascontiguousarray((right_CL @ best_LR).T), left_ML @ best_LR


def _kind(known: Architecture, own: str) -> str:
    if own not in known.tensors and own != TIED_HEAD:
        return ""
    try:
        return type(known.module_of(own)).__name__.replace("NonDynamicallyQuantizable", "")
    except AttributeError:
        return ""


def _delta(base: Model, one: str, tuned: Model, other: str) -> np.ndarray:
    """tuned - base in float32, in its shape"""
    (a, a_dtype), (b, b_dtype) = base.read(one), tuned.read(other)
    size = int(np.prod(base.shape(one)))
    delta_1P = np.empty((1, size), np.float32)
    base_1P = np.empty((1, min(READ, size)), np.float32)
    for start in range(0, size, READ):
        part = slice(start, min(start + READ, size))
        here_1P = base_1P[:, : part.stop - start]
        bad = decode([a[part]], [a_dtype], here_1P, None)
        if max(bad, decode([b[part]], [b_dtype], delta_1P[:, part], here_1P[0])) >= 0:
            raise CheckpointError(f"The tensor {one} of {base.folder} or {tuned.folder} holds NaN.")
    return delta_1P.reshape(base.shape(one))


def _whole(model: Model, name: str) -> np.ndarray:
    array, dtype = model.read(name)
    return as_float32(array[0 : int(np.prod(model.shape(name)))], dtype)


def _write(found: Extracted, base: Model, folder: Path, rank: int) -> None:
    """The two files that PEFT loads."""
    from safetensors.numpy import save_file

    modules = set(found.ranks)
    tensors = dict(found.tensors)
    for own, stored in _saved_beside(found, base).items():
        tensors.setdefault(f"{PREFIX}{own}", _whole(base, stored).reshape(base.shape(stored)))
    for name in [n for n in tensors if n.endswith(".bias")]:
        module = name.removeprefix(PREFIX).removesuffix(".bias")
        if module in modules:
            tensors[f"{PREFIX}{module}.base_layer.bias"] = tensors.pop(name)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.folder),
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {m: r for m, r in sorted(found.ranks.items()) if r != rank},
        "alpha_pattern": {m: r for m, r in sorted(found.ranks.items()) if r != rank},
        "target_modules": sorted(modules),
        "modules_to_save": sorted(found.saved) or None,
        "bias": "all" if found.biases else "none",
        "fan_in_fan_out": found.transposed,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _saved_beside(found: Extracted, base: Model) -> dict[str, str]:
    """What PEFT takes for saved as well: all modules of a saved one's name."""
    known = base.architecture
    assert isinstance(known, Architecture)
    if not found.saved:
        return {}
    own = {known.own_name(stored)[0]: stored for stored in base.checkpoint.names}
    ends = tuple(found.saved)  # PEFT compares the ends of the modules' names
    return {name: one for name, one in own.items() if name.rpartition(".")[0].endswith(ends)}


def _details(found: Extracted, base: Model, tuned: Model, rank: int) -> Json:
    return {
        "base": str(base.folder),
        "tuned": str(tuned.folder),
        "rank": rank,
        "error": found.error,
        "left_out": found.left_out,
        "tensors": [{"name": name, "error": error} for name, error in found.errors.items()],
    }
