"""teach: one pass of one model over the training examples; its beliefs go to the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from infifusion.align.evidence import bits_per_byte
from infifusion.data.store import load_labels, load_rendered
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.process.runtime import log, rank
from infifusion.recipe import Model, Recipe
from infifusion.store.artifacts import (
    State,
    close_stage,
    open_stage,
    read_manifest,
    share_stage,
    verify_files,
)
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.identity import model_identity
from infifusion.store.receipts import FilePieces
from infifusion.store.spread import my_part, wait_for
from infifusion.teacher.cache import BeliefReader, shard_path, write_shard
from infifusion.teacher.calibrate import calibrated, temperature_identity, temperature_of
from infifusion.teacher.forward import Teacher, believe, make_teacher
from infifusion.teacher.load import load_model, vocabulary_size
from infifusion.types import Beliefs, Rendered

TEMPERATURE = "temperature.json"
"""Holds a fitted temperature. Written before any shard, so that a pass that goes on finds it."""


def teach(recipe: Recipe, folder: RunFolder, name: str) -> None:
    """Cache the beliefs of the source `name` (or of the pivot) on the training examples.

    A pass that was stopped goes on with its missing or damaged shards; a finished one is skipped
    without loading the model. Processes share the shards; the first one signs.
    """
    model = recipe.pivot if name == PIVOT else recipe.sources[name]
    out = folder.teach(name)
    prepared = read_manifest(folder.prepare, made_by="prepare")
    rendered_path = folder.rendered(name, "train")
    fingerprint = {
        "model": model_identity(model),
        **temperature_identity(model, folder, name),
        "rendered": prepared["files"][str(rendered_path.relative_to(folder.prepare))],
        "top_k": recipe.teach.top_k,
        "shard_examples": recipe.teach.shard_examples,
    }
    share_stage(out, fingerprint, folder.shared, redo=folder.redo)
    if open_stage(out, fingerprint, redo=folder.redo) is State.DONE:
        return
    started = time.monotonic()
    read = [folder.examples("train"), rendered_path]
    if model.temperature == "fit":
        read += [folder.examples("validation"), folder.rendered(name, "validation")]
    verify_files(folder.prepare, prepared, only=read)
    rendered = load_rendered(rendered_path)
    labels = load_labels(folder.examples("train"))
    names = [label.id for label in labels]
    size = recipe.teach.shard_examples
    shards = range((len(rendered) + size - 1) // size)
    pieces = FilePieces(out)
    missing = [shard for shard in my_part(shards) if pieces.must_be_made(shard_path(out, shard))]
    kept = out / TEMPERATURE
    # All shards may be there, and the temperature lost: damaged, and deleted by --redo.
    unfitted = model.temperature == "fit" and rank() == 0 and not kept.exists()
    if missing or unfitted:
        loaded, tokens = teacher_of(model, recipe), batch_tokens_of(recipe)
        teacher = tokens.fit(
            lambda size: calibrated(
                replace(loaded, batch_tokens=size), model, folder, name=name, kept=kept
            )
        )
        parts = {n: (n * size, min((n + 1) * size, len(rendered))) for n in missing}
        title = f"teach {name}"
        for shard, beliefs in _believed(teacher, tokens, rendered, names, parts, title=title):
            write_shard(out, shard, beliefs, vocabulary=teacher.vocabulary)
            pieces.sign(shard_path(out, shard))
    if rank() != 0:
        return
    paths = [shard_path(out, shard) for shard in shards]
    wait_for(paths, f"teach {name}", there=pieces.is_whole)
    domains = np.array([label.domain for label in labels])
    reader = BeliefReader(out, rendered.row_N1, size, vocabulary=vocabulary_size(model))
    counts = _counts(reader, rendered, size, domains)
    temperature = temperature_of(model, kept)
    close_stage(
        out,
        fingerprint,
        counts={**counts, "shards": len(shards), "temperature": temperature},
        seconds=time.monotonic() - started,
        files=[*out.glob(TEMPERATURE), *paths],
    )
    bits = ", ".join(f"{domain} {value:.2f}" for domain, value in counts["bits_per_byte"].items())
    at = "" if temperature == 1.0 else f" at temperature {temperature:.4f}"
    log.info("teach %s: %d positions%s; bits per byte: %s", name, counts["positions"], at, bits)


def _believed(
    teacher: Teacher,
    tokens: BatchSize,
    rendered: Rendered,
    names: list[str],
    parts: dict[int, tuple[int, int]],
    *,
    title: str,
) -> Iterator[tuple[int, Beliefs]]:
    """Each shard with what the teacher believes of its examples; parts: shard -> first example, and
    the one after the last."""
    offset_N1 = rendered.offset_N1
    total = sum(int(offset_N1[end] - offset_N1[begin]) for begin, end in parts.values())
    with progress_bar(title, total, "tokens") as meter:
        for shard, (begin, end) in parts.items():

            def work(size: int, begin: int = begin, end: int = end) -> Beliefs:
                sized = replace(teacher, batch_tokens=size)
                return believe(sized, rendered, begin, end, names=names, advance=meter.advance)

            yield shard, tokens.fit(work)


def teacher_of(model: Model, recipe: Recipe) -> Teacher:
    """The model, loaded and ready for its pass."""
    return make_teacher(
        load_model(model),
        top_k=recipe.teach.top_k,
        batch_tokens=recipe.teach.batch_tokens,
        head_rows=recipe.teach.head_rows,
    )


def batch_tokens_of(recipe: Recipe) -> BatchSize:
    """The tokens that a teacher pass takes at once."""
    return BatchSize(
        recipe.teach.batch_tokens,
        setting="teach.batch_tokens",
        less="a smaller teach.head_rows or data.max_length, and quantization of the model",
    )


def _counts(
    reader: BeliefReader, rendered: Rendered, shard_examples: int, domains: np.ndarray
) -> dict[str, Any]:
    entropy_N, bits_N = [], []
    for begin in range(0, len(rendered), shard_examples):
        end = min(begin + shard_examples, len(rendered))
        beliefs = reader.examples(begin, end)
        row_N1 = rendered.row_N1[begin : end + 1] - rendered.row_N1[begin]
        start_U = rendered.start_R[rendered.row_N1[begin] : rendered.row_N1[end]]
        entropy_N.append(np.add.reduceat(beliefs.entropy_U, row_N1[:-1]) / np.diff(row_N1))
        bits_N.append(bits_per_byte(beliefs.gold_U, start_U, row_N1))
    entropy_N, bits_N = np.concatenate(entropy_N), np.concatenate(bits_N)
    kinds = sorted(set(domains.tolist()))
    return {
        "examples": len(rendered),
        "tokens": len(rendered.ids_L),
        "positions": len(rendered.start_R),
        "mean_entropy": {d: round(float(entropy_N[domains == d].mean()), 4) for d in kinds},
        "bits_per_byte": {d: round(float(bits_N[domains == d].mean()), 4) for d in kinds},
    }
