"""fuse: every source aligned to the pivot, combined into one target row per pivot position."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import example_of
from infifusion.align.evidence import bits_per_byte, running_evidence
from infifusion.align.project import Positions, Projected, project
from infifusion.align.vocabulary import VocabularyMap
from infifusion.artifacts import (
    State,
    close_stage,
    open_stage,
    read_manifest,
    verify_files,
    write_json,
)
from infifusion.data.store import load_examples, load_rendered
from infifusion.data.tokenize import gold_ids
from infifusion.errors import RecipeError
from infifusion.fuse import FUSION_FUNCTIONS, PARAMS
from infifusion.fuse.gate import gate_by_bits
from infifusion.recipe import FuseTarget, Recipe, as_json
from infifusion.runtime import log, track
from infifusion.stages.folders import PIVOT, RunFolder
from infifusion.stages.identity import stage_identity
from infifusion.stages.mapping import map_between
from infifusion.stages.named import function_and_params
from infifusion.stages.teaching import TeachingView
from infifusion.teacher.cache import BeliefReader
from infifusion.types import Aligned, Beliefs, Rendered, Target

CHUNK_EXAMPLES = 256
ARRAYS = tuple(field.name for field in fields(Target))


@dataclass(frozen=True)
class Source:
    """A source's cache, its rendering and its map to the pivot's vocabulary."""

    name: str
    rendered: Rendered
    gold_U: NDArray[np.int32]
    reader: BeliefReader
    mapping: VocabularyMap

    def examples(self, begin: int, end: int) -> tuple[Positions, Beliefs]:
        """Positions and beliefs of examples [begin, end)."""
        return positions(self.rendered, self.gold_U, begin, end), self.reader.examples(begin, end)


def fuse(recipe: Recipe, folder: RunFolder, target: FuseTarget) -> None:
    """Write the arrays of one types.Target, whole, memory-mapped, and what it is made of.

    Constant memory: CHUNK_EXAMPLES examples at a time.
    """
    names = [*target.sources, *([PIVOT] if target.pivot_as_source else [])]
    taught_by: list[str] = sorted({*names, *([PIVOT] if target.gate != "none" else [])})
    prepared = read_manifest(folder.prepare, made_by="prepare")
    fingerprint = {
        "target": as_json(target),
        "prepare": stage_identity(folder.prepare),
        "teach": {name: stage_identity(folder.teach(name)) for name in taught_by},
    }
    out = folder.fuse(target.name)
    if open_stage(out, fingerprint) is State.DONE:
        return
    started = time.monotonic()
    verify_files(folder.prepare, prepared)
    for name in taught_by:
        verify_files(folder.teach(name), read_manifest(folder.teach(name), made_by="teach"))
    function, params = function_and_params(
        FUSION_FUNCTIONS,
        PARAMS,
        target.function,
        target.params,
        kind="fusion function",
        where=f"fuse.{target.name}",
    )
    pivot = load_rendered(folder.rendered(PIVOT, "train"))
    pivot_gold_R = gold_ids(pivot)
    examples = load_examples(folder.examples("train"))
    end_of_turn = int(pivot.ids_L[pivot.offset_N1[1] - 1])
    sources = [open_source(recipe, folder, name, end_of_turn=end_of_turn) for name in names]
    gate = (
        open_source(recipe, folder, PIVOT, end_of_turn=end_of_turn)
        if target.gate == "bits_per_byte"
        else None
    )
    own = names.index(PIVOT) if target.pivot_as_source else None
    view = TeachingView(recipe, names, examples, pivot, pivot_gold_R)
    arrays = _make_arrays(out, len(pivot.start_R), len(names), target.keep, recipe.teach.top_k)
    tally = Tally(names)
    starts = range(0, len(examples), CHUNK_EXAMPLES)
    for begin in track(starts, f"fuse {target.name}", len(starts)):
        end = min(begin + CHUNK_EXAMPLES, len(examples))
        chunk = positions(pivot, pivot_gold_R, begin, end)
        beliefs, projected = align_chunk(sources, chunk, begin, end)
        if gate is not None:
            beliefs = gate_by_bits(beliefs, _bits(gate, begin, end), exempt=own)
        try:
            fused: Target = function(beliefs, params, keep=target.keep)
        except ValueError as error:
            raise RecipeError(f"fuse.{target.name}: {error}") from error
        rows = slice(int(pivot.row_N1[begin]), int(pivot.row_N1[end]))
        for name in ARRAYS:
            place = (slice(None), rows) if name == "weight_ST" else rows
            arrays[name][place] = getattr(fused, name)
        tally.add(beliefs, projected, fused)
        view.add(begin, end, beliefs, fused)
    for array in arrays.values():
        array.flush()
    write_json(out / "weights.json", view.as_json())
    maps = {source.name: source.mapping for source in sources}
    close_stage(
        out,
        fingerprint,
        counts=tally.counts(maps),
        seconds=time.monotonic() - started,
        files=[*(out / f"{name}.npy" for name in ARRAYS), out / "weights.json"],
    )
    log.info("fuse %s: %s", target.name, tally.in_words())


def load_target(out: Path) -> Target:
    """The memory-mapped arrays of a finished target."""
    return Target(**{name: np.load(out / f"{name}.npy", mmap_mode="r") for name in ARRAYS})


def open_source(recipe: Recipe, folder: RunFolder, name: str, *, end_of_turn: int) -> Source:
    """A source's cache, ready to be read; end_of_turn is the pivot's id."""
    model = recipe.pivot if name == PIVOT else recipe.sources[name]
    rendered = load_rendered(folder.rendered(name, "train"))
    ends = int(rendered.ids_L[rendered.offset_N1[1] - 1]), end_of_turn
    return Source(
        name=name,
        rendered=rendered,
        gold_U=gold_ids(rendered),
        reader=BeliefReader(folder.teach(name), rendered.row_N1, recipe.teach.shard_examples),
        mapping=map_between(model, recipe.pivot, end_of_turn=ends),
    )


def positions(rendered: Rendered, gold_R: NDArray[np.int32], begin: int, end: int) -> Positions:
    """The response positions of examples [begin, end), numbered from 0."""
    rows = slice(int(rendered.row_N1[begin]), int(rendered.row_N1[end]))
    return Positions(
        start_R=rendered.start_R[rows],
        row_N1=rendered.row_N1[begin : end + 1] - rendered.row_N1[begin],
        gold_R=gold_R[rows],
    )


def align_chunk(
    sources: list[Source], pivot: Positions, begin: int, end: int
) -> tuple[Aligned, list[Projected]]:
    """All sources at the pivot's positions of examples [begin, end)."""
    parts = [source.examples(begin, end) for source in sources]
    projected = [
        project(here, beliefs, pivot, source.mapping)
        for source, (here, beliefs) in zip(sources, parts, strict=True)
    ]

    def at_pivot(values: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Per-source position values, gathered at the pivot's positions; 0 where unaligned."""
        return np.stack(
            [
                np.where(one.source_T >= 0, value_U[np.maximum(one.source_T, 0)], 0)
                for one, value_U in zip(projected, values, strict=True)
            ]
        ).astype(np.float32)

    def evidence(forgetting: float) -> NDArray[np.float32]:
        return at_pivot(
            running_evidence(b.gold_U, here.start_R, here.row_N1, forgetting=forgetting)
            for here, b in parts
        )

    return (
        Aligned(
            ids_STK=np.stack([one.ids_TK for one in projected]),
            prob_STK=np.stack([one.prob_TK for one in projected]),
            tail_ST=np.stack([one.tail_T for one in projected]),
            aligned_ST=np.stack([one.source_T >= 0 for one in projected]),
            entropy_ST=at_pivot(b.entropy_U for _, b in parts),
            top_ST=at_pivot(np.exp(b.logprob_UK[:, 0].astype(np.float32)) for _, b in parts),
            zscore_STK=np.stack(
                [
                    np.where(
                        one.source_T[:, None] >= 0,
                        _zscores(beliefs)[np.maximum(one.source_T, 0)],
                        0,
                    ).astype(np.float32)
                    for one, (_, beliefs) in zip(projected, parts, strict=True)
                ]
            ),
            bits_SN=np.stack(
                [bits_per_byte(b.gold_U, here.start_R, here.row_N1) for here, b in parts]
            ),
            evidence=evidence,
            example_T=example_of(pivot.row_N1),
        ),
        projected,
    )


def _zscores(beliefs: Beliefs) -> NDArray[np.float32]:
    """The kept logits, standardised over the full vocabulary: (logit - mean) / std, [U, K]."""
    logit_UK = beliefs.logprob_UK.astype(np.float32) + beliefs.lse_U[:, None]
    std_U = np.maximum(beliefs.std_U, np.finfo(np.float32).tiny)
    return ((logit_UK - beliefs.mean_U[:, None]) / std_U[:, None]).astype(np.float32)


def _bits(source: Source, begin: int, end: int) -> NDArray[np.float32]:
    here, beliefs = source.examples(begin, end)
    return bits_per_byte(beliefs.gold_U, here.start_R, here.row_N1)


def _make_arrays(
    out: Path, positions: int, sources: int, keep: int, top_k: int
) -> dict[str, np.memmap]:
    shapes = {
        "ids_TK": ((positions, keep), np.int32),
        "prob_TK": ((positions, keep), np.float32),
        "weight_ST": ((sources, positions), np.float32),
        "zscore_TK": ((positions, top_k), np.float32),
    }
    return {
        name: np.lib.format.open_memmap(out / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (shape, dtype) in shapes.items()
    }


class Tally:
    """Counts over the chunks of one target, for the manifest."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._positions = self._taught = 0
        self._tail = 0.0
        self._of = {name: dict.fromkeys(("aligned", "gold", "gated"), 0) for name in names}
        self._unmapped = dict.fromkeys(names, 0.0)

    def add(self, beliefs: Aligned, projected: list[Projected], fused: Target) -> None:
        """Count one chunk."""
        taught_T = fused.weight_ST.sum(axis=0) > 0
        self._positions += len(taught_T)
        self._taught += int(taught_T.sum())
        self._tail += float((1 - fused.prob_TK[taught_T].sum(axis=1)).sum())
        for s, (name, one) in enumerate(zip(self._names, projected, strict=True)):
            aligned_T = one.source_T >= 0
            self._of[name]["aligned"] += int(aligned_T.sum())
            self._of[name]["gold"] += int(one.gold_path_T.sum())
            self._unmapped[name] += one.unmapped
            shut_T = aligned_T & ~beliefs.aligned_ST[s]
            self._of[name]["gated"] += len(np.unique(beliefs.example_T[shut_T]))

    def counts(self, maps: dict[str, VocabularyMap]) -> dict[str, Any]:
        """What the manifest says."""
        return {
            "positions": self._positions,
            "taught": self._taught,
            "tail_mass": self._tail / max(self._taught, 1),
            "sources": {
                name: {
                    "aligned": self._of[name]["aligned"],
                    "aligned_share": self._of[name]["aligned"] / max(self._positions, 1),
                    "gold_paths": self._of[name]["gold"],
                    "gated_examples": self._of[name]["gated"],
                    "unmapped_mass": self._unmapped[name] / max(self._of[name]["aligned"], 1),
                    "vocabulary": maps[name].counts(),
                }
                for name in self._names
            },
        }

    def in_words(self) -> str:
        """One line for the log."""
        aligned = ", ".join(
            f"{name} {100 * self._of[name]['aligned'] / max(self._positions, 1):.1f} %"
            for name in self._names
        )
        taught = 100 * self._taught / max(self._positions, 1)
        return f"{self._positions} positions, {taught:.1f} % taught; aligned: {aligned}"
