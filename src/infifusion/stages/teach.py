"""teach: one pass of one model over the training examples; its beliefs go to the cache.

Axes: N examples, U positions of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from infifusion.align.evidence import bits_per_byte
from infifusion.data.store import Label, load_labels, load_rendered
from infifusion.engine.beliefs import believed
from infifusion.engine.tail import KIND
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.process.runtime import rank
from infifusion.process.wording import counted
from infifusion.recipe import Model, Recipe
from infifusion.store.folders import PIVOT, RunFolder, model_called, tuning_read
from infifusion.store.identity import prepared_hash, running_identity
from infifusion.store.receipts import FilePieces, receipt_of
from infifusion.store.records import Json, read_record
from infifusion.store.stage import Finished, Parts, Stage, Work, run_stage
from infifusion.teacher.cache import BeliefReader, shard_path, write_shard
from infifusion.teacher.calibrate import calibrated, temperature_identity, temperature_of
from infifusion.teacher.elsewhere import ENGINE, in_engine
from infifusion.teacher.forward import Teacher, believe, make_teacher
from infifusion.teacher.load import load_model, vocabulary_size
from infifusion.types import Beliefs, Rendered

TEMPERATURE = "temperature.json"
"""Holds a fitted temperature. Written before any shard, so that a pass that goes on finds it."""


def teach(recipe: Recipe, folder: RunFolder, name: str) -> None:
    """Cache the beliefs of the source `name` (or of the pivot) on the training examples.

    The parts are shards of whole examples. A finished pass is skipped without loading the model.
    """
    model = model_called(recipe, name)
    rendered = folder.rendered(name, "train")
    read = [folder.examples("train"), rendered, *tuning_read(folder, name, model)]
    if model.temperature == "fit":
        read += [folder.examples("validation"), folder.rendered(name, "validation")]
    stage = Stage(
        title=f"teach {name}",
        folder=folder.teach(name),
        fingerprint={
            "model": running_identity(model),
            **temperature_identity(model, folder, name),
            "rendered": prepared_hash(folder, rendered),
            "top_k": recipe.teach.top_k,
            "shard_examples": recipe.teach.shard_examples,
            **({} if model.engine is None else {"entropy": KIND}),
        },
        reads=read,
        work=partial(_work, recipe, folder, name, model),
        shared=True,
    )
    run_stage(stage, folder)


def _work(recipe: Recipe, folder: RunFolder, name: str, model: Model) -> Work:
    out = folder.teach(name)
    rendered = load_rendered(folder.rendered(name, "train"))
    labels = load_labels(folder.examples("train"))
    size = recipe.teach.shard_examples
    examples = {
        shard_path(out, shard): (begin, min(begin + size, len(rendered)))
        for shard, begin in enumerate(range(0, len(rendered), size))
    }
    shards = list(examples)

    def make(missing: list[Path]) -> Iterator[tuple[Path, Json]]:
        if model.engine is not None:
            yield from _from_engine(recipe, name, model, rendered, labels, examples, missing, out)
            return
        kept = out / TEMPERATURE
        # All shards may be there, and the temperature lost: damaged, and deleted by --redo.
        unfitted = model.temperature == "fit" and rank() == 0 and not kept.exists()
        if not missing and not unfitted:
            return
        loaded = teacher_of(model, recipe)
        tokens = BatchSize(
            recipe.teach.batch_tokens,
            setting="teach.batch_tokens",
            less="a smaller teach.head_rows or data.max_length, and quantization of the model",
        )
        teacher = tokens.fit(
            lambda size: calibrated(
                replace(loaded, batch_tokens=size), model, folder, name=name, kept=kept
            )
        )
        names = [label.id for label in labels]
        ranges = [examples[path] for path in missing]
        believed = _believed(name, teacher, tokens, rendered, names, ranges)
        for path, beliefs in zip(missing, believed, strict=True):
            write_shard(out, shards.index(path), beliefs, vocabulary=teacher.vocabulary)
            yield path, {}

    def finish() -> Finished:
        reader = BeliefReader(out, rendered.row_N1, size, vocabulary=vocabulary_size(model))
        counts = _counts(reader, rendered, labels, list(examples.values()))
        temperature = temperature_of(model, out / TEMPERATURE)
        bits = ", ".join(f"{one} {value:.2f}" for one, value in counts["bits_per_byte"].items())
        at = "" if temperature == 1.0 else f" at temperature {temperature:.4f}"
        behind = {} if model.engine is None else {"engine": _of_engine(out, shards)}
        return Finished(
            files=[*out.glob(TEMPERATURE), *out.glob(ENGINE), *shards],
            counts={**counts, "shards": len(shards), "temperature": temperature, **behind},
            said=f"{counted(counts['positions'], 'position')}{at}; bits per byte: {bits}",
        )

    return Work(finish, Parts(shards, FilePieces(out), make))


def _from_engine(
    recipe: Recipe,
    name: str,
    model: Model,
    rendered: Rendered,
    labels: list[Label],
    examples: dict[Path, tuple[int, int]],
    missing: list[Path],
    out: Path,
) -> Iterator[tuple[Path, Json]]:
    """Write the missing shards by asking the model's engine, each when it is whole."""
    if not missing and (out / ENGINE).exists():
        return
    shards = list(examples)
    ranges = [examples[path] for path in missing]
    tokens = np.diff(rendered.offset_N1)
    total = sum(int(tokens[begin:end].sum()) for begin, end in ranges)
    where = name if name == PIVOT else f"sources.{name}"
    asked = in_engine(
        model,
        where=where,
        top_k=recipe.teach.top_k,
        longest=int(tokens.max(initial=0)),
        kept=out / ENGINE,
    )
    with asked as remote, progress_bar(f"teach {name}", total, "tokens") as meter:
        found = believed(
            remote,
            rendered,
            ranges,
            top_k=recipe.teach.top_k,
            names=[label.id for label in labels],
            advance=meter.advance,
        )
        for number, beliefs, bounds in found:
            path = missing[number]
            write_shard(out, shards.index(path), beliefs, vocabulary=remote.vocabulary)
            yield path, {"entropy": bounds.as_json()}


def _of_engine(out: Path, shards: list[Path]) -> Json:
    """What served a pass, and how far its entropies are known: nats a position, the mean of the
    estimates and of their bounds."""
    sums = [read_record(receipt_of(out, path.name))["entropy"] for path in shards]
    positions = max(1, sum(one["positions"] for one in sums))
    means = {
        key: round(sum(one[key] for one in sums) / positions, 4)
        for key in ("estimate", "least", "most")
    }
    served = read_record(out / ENGINE)
    kept = {key: served[key] for key in ("kind", "serves", "version", "entries")}
    return {**kept, "entropy": {"estimated_by": KIND, **means}}


def teacher_of(model: Model, recipe: Recipe) -> Teacher:
    """The model, loaded and ready for its pass."""
    return make_teacher(
        load_model(model),
        top_k=recipe.teach.top_k,
        batch_tokens=recipe.teach.batch_tokens,
        head_rows=recipe.teach.head_rows,
    )


def _believed(
    name: str,
    teacher: Teacher,
    tokens: BatchSize,
    rendered: Rendered,
    names: list[str],
    ranges: list[tuple[int, int]],
) -> Iterator[Beliefs]:
    """What the teacher believes of the examples of each range [begin, end)."""
    total = sum(int(rendered.offset_N1[end] - rendered.offset_N1[begin]) for begin, end in ranges)
    with progress_bar(f"teach {name}", total, "tokens") as meter:
        for begin, end in ranges:

            def work(size: int, begin: int = begin, end: int = end) -> Beliefs:
                sized = replace(teacher, batch_tokens=size)
                return believe(sized, rendered, begin, end, names=names, advance=meter.advance)

            yield tokens.fit(work)


def _counts(
    reader: BeliefReader,
    rendered: Rendered,
    labels: list[Label],
    ranges: list[tuple[int, int]],
) -> Json:
    """Counts of the pass, and means by domain: entropy in nats, bits per byte."""
    domain_N = np.array([label.domain for label in labels])
    entropies, bits = [], []
    for begin, end in ranges:
        beliefs = reader.examples(begin, end)
        row_N1 = rendered.row_N1[begin : end + 1] - rendered.row_N1[begin]
        start_U = rendered.start_R[rendered.row_N1[begin] : rendered.row_N1[end]]
        entropies.append(np.add.reduceat(beliefs.entropy_U, row_N1[:-1]) / np.diff(row_N1))
        bits.append(bits_per_byte(beliefs.gold_U, start_U, row_N1))

    def by_domain(parts: list[np.ndarray]) -> dict[str, float]:
        value_N = np.concatenate(parts)
        kinds = sorted(set(domain_N.tolist()))
        return {d: round(float(value_N[domain_N == d].mean()), 4) for d in kinds}

    return {
        "examples": len(rendered),
        "tokens": len(rendered.ids_L),
        "positions": len(rendered.start_R),
        "mean_entropy": by_domain(entropies),
        "bits_per_byte": by_domain(bits),
    }
