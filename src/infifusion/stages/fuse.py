"""fuse: every source aligned to the pivot, combined into one target row per pivot position.

Axes: S sources, T pivot positions, K kept entries, N examples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infifusion.data.store import ARRAYS, load_examples, load_rendered
from infifusion.data.tokenize import gold_ids
from infifusion.process.bar import track
from infifusion.process.runtime import log, rank
from infifusion.recipe import FuseTarget, Recipe, as_json
from infifusion.stages.combine import fuse_chunk, fusion_function, gate, open_source, positions
from infifusion.stages.teaching import (
    TeachingView,
    add_tallies,
    counts_of,
    in_words,
    tally,
    who_may_teach,
)
from infifusion.store.arrays import open_arrays
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.hashes import quick_hash_of
from infifusion.store.identity import prepared_identity, stage_identity
from infifusion.store.receipts import Hashes, Pieces
from infifusion.store.records import Json, read_record, write_json
from infifusion.store.stage import Finished, Parts, Stage, Work, run_stage
from infifusion.types import Rendered

CHUNK_EXAMPLES = 128
DONE = "done"


def taught_by(target: FuseTarget) -> list[str]:
    """Whose beliefs a target is made of: its sources, and the pivot where it takes part or is what
    a gate compares with."""
    pivot = [PIVOT] if target.pivot_as_source or target.gate != "none" else []
    return sorted({*target.sources, *pivot})


def fuse(recipe: Recipe, folder: RunFolder, target: FuseTarget) -> None:
    """Write the arrays of one types.Target, whole, memory-mapped, and what it is made of.

    The parts are chunks of CHUNK_EXAMPLES examples, so memory is constant.
    """
    taught = taught_by(target)
    stage = Stage(
        title=f"fuse {target.name}",
        folder=folder.fuse(target.name),
        fingerprint={
            "target": as_json(target),
            "prepare": prepared_identity(folder, sorted({PIVOT, *taught})),
            "teach": {name: stage_identity(folder.teach(name)) for name in taught},
        },
        reads=[folder.prepare, *(folder.teach(name) for name in taught)],
        work=partial(_work, recipe, folder, target),
    )
    run_stage(stage, folder)


def _work(recipe: Recipe, folder: RunFolder, target: FuseTarget) -> Work:
    out = folder.fuse(target.name)
    names = [*target.sources, *([PIVOT] if target.pivot_as_source else [])]
    combine = fusion_function(target)
    pivot = load_rendered(folder.rendered(PIVOT, "train"))
    gold_T = gold_ids(pivot)
    examples = load_examples(folder.examples("train"))
    opened = partial(
        open_source,
        recipe,
        folder,
        pivot=pivot,
        alignment=target.alignment,
        inside=target.inside,
    )
    sources = [opened(name) for name in names]
    open_SN = None if target.gate == "none" else gate(target, sources, opened(PIVOT), examples)
    if open_SN is not None and rank() == 0:
        told = who_may_teach(target.sources, open_SN, [example.domain for example in examples])
        log.info("fuse %s: %s", target.name, told)
    view = TeachingView(recipe, names, examples, pivot, gold_T)
    arrays = target_arrays(out, len(gold_T), len(names), target.keep, recipe.teach.top_k)
    chunks = _Chunks(pivot, arrays)
    receipts = [out / DONE / f"{number:06d}.json" for number in range(chunks.count)]

    def make(missing: list[Path]) -> Iterator[tuple[Path, Json]]:
        for receipt in track(missing, f"fuse {target.name}", len(missing), "chunks"):
            begin, end = chunks.examples(receipt)
            here = positions(pivot, gold_T, begin, end)
            believed = [source.examples(begin, end) for source in sources]
            may_teach = None if open_SN is None else open_SN[:, begin:end]
            aligned, origins, fused = fuse_chunk(target, combine, believed, here, may_teach)
            for name, rows in chunks.rows(receipt).items():
                rows[:] = getattr(fused, name)
                arrays[name].flush()
            part = {
                "tally": tally(names, aligned, origins, fused),
                "view": view.part(begin, end, aligned, origins, fused),
            }
            yield receipt, part

    def finish() -> Finished:
        tallies = []
        for part in map(read_record, receipts):
            view.add(part["view"])
            tallies.append(part["tally"])
        write_json(out / "weights.json", view.as_json())
        maps = {source.name: source.mapping for source in sources}
        counts = counts_of(add_tallies(tallies), maps)
        files = [out / f"{name}.npy" for name in ARRAYS]
        for path in files:
            os.utime(path)  # a file system in memory does not note writes through a mapping
        return Finished([*files, out / "weights.json"], counts, in_words(counts))

    return Work(finish, Parts(receipts, Pieces(out, chunks.hashes), make))


@dataclass(frozen=True)
class _Chunks:
    """A target's arrays in chunks of CHUNK_EXAMPLES examples; a chunk is named by its receipt."""

    pivot: Rendered
    arrays: dict[str, np.memmap]

    @property
    def count(self) -> int:
        return -(-len(self.pivot) // CHUNK_EXAMPLES)

    def examples(self, receipt: Path) -> tuple[int, int]:
        """Its first example, and the one after its last."""
        begin = int(receipt.stem) * CHUNK_EXAMPLES
        return begin, min(begin + CHUNK_EXAMPLES, len(self.pivot))

    def rows(self, receipt: Path) -> dict[str, NDArray]:
        """Its rows in each array, to be read or written."""
        low, high = (int(self.pivot.row_N1[n]) for n in self.examples(receipt))
        return {
            name: array[:, low:high] if name == "weight_ST" else array[low:high]
            for name, array in self.arrays.items()
        }

    def hashes(self, receipt: Path) -> Hashes:
        """The quick hashes of its rows as they are now."""
        return {name: quick_hash_of(rows) for name, rows in self.rows(receipt).items()}


def target_arrays(
    out: Path, positions: int, sources: int, keep: int, top_k: int
) -> dict[str, np.memmap]:
    """The target's arrays, memory-mapped; the first process makes the files, whole."""
    shapes = {
        "ids_TK": ((positions, keep), np.int32),
        "prob_TK": ((positions, keep), np.float32),
        "weight_ST": ((sources, positions), np.float32),
        "zscore_TK": ((positions, top_k), np.float32),
    }
    return open_arrays(out, shapes, "fuse")
