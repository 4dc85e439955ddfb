"""prepare: data sets in, examples and every model's rendering of them out."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from infifusion.artifacts import State, close_stage, open_stage, sha256_of
from infifusion.data.examples import read_examples
from infifusion.data.overlap import without_duplicates, without_overlap
from infifusion.data.store import write_examples, write_rendered
from infifusion.data.tokenize import as_rendered
from infifusion.errors import DataError
from infifusion.recipe import DataSource, Recipe, as_json
from infifusion.runtime import log
from infifusion.stages.folders import PIVOT, SPLITS, RunFolder
from infifusion.stages.identity import tokenizer_of
from infifusion.stages.rendering import tokenize_examples
from infifusion.types import Example


def prepare(recipe: Recipe, folder: RunFolder) -> None:
    """Write train, validation and held-out examples, rendered for the pivot and every source.

    Left out and counted: empty responses, repeated examples, examples that overlap
    data.decontaminate, examples longer than data.max_length for any of the models.
    """
    fingerprint = _fingerprint(recipe)
    if open_stage(folder.prepare, fingerprint) is State.DONE:
        return
    started = time.monotonic()
    left_out: dict[str, Any] = {}
    splits = _splits(recipe, left_out)
    models = {PIVOT: recipe.pivot, **recipe.sources}
    tokens: dict[str, int] = {}
    too_long: dict[str, int] = dict.fromkeys(models, 0)
    straddling: dict[str, int] = dict.fromkeys(models, 0)
    files = []
    for split, examples in splits.items():
        rendered = {
            name: tokenize_examples(
                model,
                examples,
                plain_template=recipe.data.plain_template,
                title=f"prepare {name} {split}",
            )
            for name, model in models.items()
        }
        fits = [True] * len(examples)
        for name, conversations in rendered.items():
            for place, one in enumerate(conversations):
                if len(one.ids) > recipe.data.max_length:
                    fits[place] = False
                    too_long[name] += 1
        kept = [example for example, fit in zip(examples, fits, strict=True) if fit]
        if split == "train" and not kept:
            raise DataError(
                f"No training example is left: all {len(examples)} are longer than "
                f"data.max_length ({recipe.data.max_length} tokens). Raise it."
            )
        splits[split] = kept
        write_examples(folder.examples(split), kept)
        files.append(folder.examples(split))
        for name, conversations in rendered.items():
            chosen = [one for one, fit in zip(conversations, fits, strict=True) if fit]
            path = folder.rendered(name, split)
            write_rendered(path, as_rendered(chosen))
            files.append(path)
            straddling[name] += sum(one.straddles for one in chosen)
            if split == "train":
                tokens[name] = sum(len(one.starts) for one in chosen)
    left_out["too_long"] = too_long
    counts = {
        **{split: dict(Counter(e.domain for e in examples)) for split, examples in splits.items()},
        "left_out": left_out,
        "tokens": tokens,
        "straddling": straddling,
    }
    close_stage(
        folder.prepare,
        fingerprint,
        counts=counts,
        seconds=time.monotonic() - started,
        files=files,
    )
    log.info("prepare: %s", _in_words(counts))


def _fingerprint(recipe: Recipe) -> dict[str, Any]:
    def files(sources: list[DataSource]) -> dict[str, str]:
        return {s.path: sha256_of(Path(s.path)) for s in sources if Path(s.path).is_file()}

    data = recipe.data
    return {
        "data": as_json(data),
        "files": {**files(data.train), **files(data.held_out), **files(data.decontaminate)},
        "tokenizers": {
            PIVOT: tokenizer_of(recipe.pivot),
            **{name: tokenizer_of(model) for name, model in recipe.sources.items()},
        },
        "seed": recipe.seed,
    }


def _splits(recipe: Recipe, left_out: dict[str, Any]) -> dict[str, list[Example]]:
    """Examples of each split, before any is found too long."""
    empty = 0

    def read(sources: list[DataSource]) -> list[Example]:
        nonlocal empty
        examples: list[Example] = []
        for source in sources:
            some, none = read_examples(source, seed=recipe.seed)
            examples += some
            empty += none
        return _with_own_ids(examples)

    train = read(recipe.data.train)
    if not train:
        raise DataError("The training data holds no example with a response.")
    unique = without_duplicates(train)
    left_out["duplicate"] = len(train) - len(unique)
    clean = unique
    if recipe.data.decontaminate:
        clean = without_overlap(
            unique, read(recipe.data.decontaminate), length=recipe.data.decontaminate_ngram
        )
        if not clean:
            raise DataError("Every training example overlaps data.decontaminate.")
    left_out["contaminated"] = len(unique) - len(clean)
    train, validation = _split_validation(clean, recipe.data.validation_share, recipe.seed)
    held_out = read(recipe.data.held_out)
    left_out["empty_response"] = empty
    return dict(zip(SPLITS, (train, validation, held_out), strict=True))


def _with_own_ids(examples: list[Example]) -> list[Example]:
    """The same examples; an id that stands twice gets a number."""
    seen: Counter[str] = Counter()
    named = []
    for example in examples:
        seen[example.id] += 1
        times = seen[example.id]
        named.append(example if times == 1 else replace(example, id=f"{example.id}#{times}"))
    return named


def _split_validation(
    examples: list[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Keep `share` of each domain apart, chosen by the seed; both lists keep their order."""
    apart: set[str] = set()
    for domain in sorted({example.domain for example in examples}):
        ids = [example.id for example in examples if example.domain == domain]
        apart |= set(random.Random(f"{seed}:{domain}").sample(ids, round(share * len(ids))))
    return [e for e in examples if e.id not in apart], [e for e in examples if e.id in apart]


def _in_words(counts: dict[str, Any]) -> str:
    parts = [
        f"{sum(counts[split].values())} {split.replace('_', '-')} examples"
        for split in SPLITS
        if counts[split]
    ]
    left = counts["left_out"]
    gone = left["empty_response"] + left["duplicate"] + left["contaminated"]
    longest = max(left["too_long"].values(), default=0)
    return (
        ", ".join(parts) + f"; left out: {gone} empty, repeated or overlapping, {longest} too long"
    )
