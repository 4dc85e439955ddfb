"""fuse: every source aligned to the pivot, combined into one target row per pivot position."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infifusion.align.evidence import bits_per_byte
from infifusion.align.project import Pair
from infifusion.align.vocabulary import VocabularyMap
from infifusion.data.store import ARRAYS, load_examples, load_rendered
from infifusion.data.tokenize import end_of_turn, gold_ids
from infifusion.errors import ArtifactError
from infifusion.fuse.gate import better_in_domain, better_on_response
from infifusion.process.bar import track
from infifusion.process.runtime import log, rank
from infifusion.recipe import FuseTarget, Recipe, as_json
from infifusion.stages.combine import Believed, fuse_chunk, fusion_function, positions
from infifusion.stages.mapping import map_between, pair_between
from infifusion.stages.tally import add_tallies, counts_of, in_words, tally
from infifusion.stages.teaching import TeachingView, who_may_teach
from infifusion.store.artifacts import (
    State,
    close_stage,
    open_stage,
    read_manifest,
    verify_files,
    verify_stage,
)
from infifusion.store.durable import atomic_write
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.hashes import quick_hash_of
from infifusion.store.identity import prepared_identity, stage_identity
from infifusion.store.receipts import Hashes, is_whole, mark_of, must_be_made, sign
from infifusion.store.records import read_record, write_json
from infifusion.store.spread import my_part, wait_for
from infifusion.teacher.cache import BeliefReader
from infifusion.teacher.load import vocabulary_size
from infifusion.types import Example, Rendered

CHUNK_EXAMPLES = 128
DONE = "done"


@dataclass(frozen=True)
class Source:
    """A source's cache, its rendering, its map to the pivot's vocabulary and its alignment."""

    name: str
    rendered: Rendered
    gold_U: NDArray[np.int32]
    reader: BeliefReader
    mapping: VocabularyMap
    pair: Pair

    def examples(self, begin: int, end: int) -> Believed:
        """What it believed on examples [begin, end)."""
        here = positions(self.rendered, self.gold_U, begin, end)
        return here, self.reader.examples(begin, end), self.mapping, self.pair


def taught_by(target: FuseTarget) -> list[str]:
    """Whose beliefs a target is made of: its sources, and the pivot where it takes part or is the
    measure of a gate."""
    pivot = [PIVOT] if target.pivot_as_source or target.gate != "none" else []
    return sorted({*target.sources, *pivot})


def fuse(recipe: Recipe, folder: RunFolder, target: FuseTarget) -> None:
    """Write the arrays of one types.Target, whole, memory-mapped, and what it is made of.

    Constant memory: CHUNK_EXAMPLES examples at a time. Processes share the chunks; one that was
    stopped goes on with those it lacks.
    """
    names = [*target.sources, *([PIVOT] if target.pivot_as_source else [])]
    taught = taught_by(target)
    prepared = read_manifest(folder.prepare, made_by="prepare")
    fingerprint = {
        "target": as_json(target),
        "prepare": prepared_identity(folder, sorted({PIVOT, *taught})),
        "teach": {name: stage_identity(folder.teach(name)) for name in taught},
    }
    out = folder.fuse(target.name)
    if open_stage(out, fingerprint, redo=folder.redo) is State.DONE:
        return
    started = time.monotonic()
    verify_files(folder.prepare, prepared)
    for name in taught:
        verify_stage(folder.teach(name), made_by="teach")
    combine = fusion_function(target)
    pivot = load_rendered(folder.rendered(PIVOT, "train"))
    pivot_gold_R = gold_ids(pivot)
    examples = load_examples(folder.examples("train"))
    sources = [open_source(recipe, folder, name, pivot, target.alignment) for name in names]
    open_SN = _gate(recipe, folder, target, sources, examples, pivot)
    if open_SN is not None and rank() == 0:
        told = who_may_teach(target.sources, open_SN, [example.domain for example in examples])
        log.info("fuse %s: %s", target.name, told)
    view = TeachingView(recipe, names, examples, pivot, pivot_gold_R)
    arrays = open_arrays(out, len(pivot.start_R), len(names), target.keep, recipe.teach.top_k)
    chunks = range(-(-len(examples) // CHUNK_EXAMPLES))
    mark = mark_of(out)

    def hashes(chunk: int) -> Hashes:
        rows = _rows_of(pivot, chunk)
        return {name: quick_hash_of(_place(arrays, name, rows)) for name in ARRAYS}

    def there(receipt: Path) -> bool:
        return is_whole(receipt, lambda: hashes(int(receipt.stem)), mark=mark)

    receipts = [out / DONE / f"{chunk:06d}.json" for chunk in chunks]
    mine = [
        chunk
        for chunk in my_part(chunks)
        if must_be_made(receipts[chunk], lambda c=chunk: hashes(c), mark=mark, stage=out)
    ]
    for chunk in track(mine, f"fuse {target.name}", len(mine), "chunks"):
        begin = chunk * CHUNK_EXAMPLES
        end = min(begin + CHUNK_EXAMPLES, len(examples))
        here = positions(pivot, pivot_gold_R, begin, end)
        believed = [source.examples(begin, end) for source in sources]
        may_teach = None if open_SN is None else open_SN[:, begin:end]
        beliefs, projected, fused = fuse_chunk(target, combine, believed, here, may_teach)
        for name in ARRAYS:
            _place(arrays, name, _rows_of(pivot, chunk))[:] = getattr(fused, name)
            arrays[name].flush()
        part = {
            "tally": tally(names, beliefs, projected, fused),
            "view": view.part(begin, end, beliefs, projected, fused),
        }
        sign(receipts[chunk], hashes(chunk), mark=mark, more=part)
    if rank() != 0:
        return
    wait_for(receipts, f"fuse {target.name}", there=there)
    tallies = []
    for part in map(read_record, receipts):
        view.add(part["view"])
        tallies.append(part["tally"])
    write_json(out / "weights.json", view.as_json())
    maps = {source.name: source.mapping for source in sources}
    counts = counts_of(add_tallies(tallies), maps)
    close_stage(
        out,
        fingerprint,
        counts=counts,
        seconds=time.monotonic() - started,
        files=[*(out / f"{name}.npy" for name in ARRAYS), out / "weights.json"],
    )
    log.info("fuse %s: %s", target.name, in_words(counts))


def _rows_of(pivot: Rendered, chunk: int) -> slice:
    """The rows of a chunk's examples."""
    begin = chunk * CHUNK_EXAMPLES
    end = min(begin + CHUNK_EXAMPLES, len(pivot))
    return slice(int(pivot.row_N1[begin]), int(pivot.row_N1[end]))


def _place(arrays: dict[str, np.memmap], name: str, rows: slice) -> NDArray:
    """Where some rows of one of the target's arrays lie."""
    return arrays[name][:, rows] if name == "weight_ST" else arrays[name][rows]


def open_source(
    recipe: Recipe, folder: RunFolder, name: str, pivot: Rendered, alignment: str
) -> Source:
    """A source's cache, ready to be read; pivot: the training examples as the pivot sees them."""
    model = recipe.pivot if name == PIVOT else recipe.sources[name]
    rendered = load_rendered(folder.rendered(name, "train"))
    ends = end_of_turn(rendered), end_of_turn(pivot)
    mapping = map_between(model, recipe.pivot, end_of_turn=ends, alignment=alignment)
    return Source(
        name=name,
        rendered=rendered,
        gold_U=gold_ids(rendered),
        reader=BeliefReader(
            folder.teach(name),
            rendered.row_N1,
            recipe.teach.shard_examples,
            vocabulary=vocabulary_size(model),
        ),
        mapping=mapping,
        pair=pair_between(model, recipe.pivot, mapping, alignment=alignment),
    )


def _gate(
    recipe: Recipe,
    folder: RunFolder,
    target: FuseTarget,
    sources: list[Source],
    examples: list[Example],
    pivot: Rendered,
) -> NDArray[np.bool_] | None:
    """Which source may teach which example, [S, N]; None without a gate."""
    if target.gate == "none":
        return None
    bits_SN = np.stack([_bits(source, len(examples)) for source in sources])
    own = open_source(recipe, folder, PIVOT, pivot, target.alignment)
    pivot_bits_N = _bits(own, len(examples))
    if target.gate == "domain":
        return better_in_domain(bits_SN, pivot_bits_N, [example.domain for example in examples])
    return better_on_response(bits_SN, pivot_bits_N)


def _bits(source: Source, examples: int) -> NDArray[np.float32]:
    """A source's bits per byte on each response: [N]."""
    found = []
    for begin in range(0, examples, CHUNK_EXAMPLES):
        here, beliefs, *_ = source.examples(begin, min(begin + CHUNK_EXAMPLES, examples))
        found.append(bits_per_byte(beliefs.gold_U, here.start_R, here.row_N1))
    return np.concatenate(found)


def open_arrays(
    out: Path, positions: int, sources: int, keep: int, top_k: int
) -> dict[str, np.memmap]:
    """The target's arrays, memory-mapped; the first process makes the files, whole."""
    shapes = {
        "ids_TK": ((positions, keep), np.int32),
        "prob_TK": ((positions, keep), np.float32),
        "weight_ST": ((sources, positions), np.float32),
        "zscore_TK": ((positions, top_k), np.float32),
    }
    paths = {name: out / f"{name}.npy" for name in shapes}
    for name, (shape, dtype) in shapes.items():
        if rank() == 0 and not paths[name].exists():
            with atomic_write(paths[name]) as temporary:
                np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape).flush()
                _allocate(temporary)
    wait_for(paths.values(), "fuse")
    return {name: _open_array(paths[name], *shapes[name]) for name in shapes}


def _open_array(path: Path, shape: tuple[int, int], dtype: type) -> np.memmap:
    """An array that may have been begun earlier; ArtifactError where it is not whole."""
    head, kind = BytesIO(), np.dtype(dtype)
    described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False}
    np.lib.format.write_array_header_1_0(head, {**described, "shape": shape})
    expected = head.getvalue()
    with path.open("rb") as file:
        found = file.read(len(expected))
    size = len(expected) + kind.itemsize * shape[0] * shape[1]
    if found != expected or path.stat().st_size != size:
        raise ArtifactError(
            f"{path} is not the array that was begun there: expected {kind} {list(shape)} in "
            f"{size:,} bytes. It was damaged or cut short. Delete it and run again."
        )
    return np.lib.format.open_memmap(path, mode="r+")


def _allocate(path: Path) -> None:
    """Take the file's space now. It is all holes, and a write to a mapped hole that finds the disk
    full is no error but a signal that kills the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
