"""prepare: data sets in, examples and every model's rendering of them out."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from infifusion.data.examples import own_names, read_examples
from infifusion.data.overlap import text_of, without_duplicates, without_overlap
from infifusion.data.questions import responding_sources
from infifusion.data.store import load_examples, load_responses, write_examples, write_rendered
from infifusion.data.tokenize import Tokenized, as_rendered
from infifusion.errors import DataError
from infifusion.process.runtime import log, rank
from infifusion.recipe import DataSource, Model, Recipe, as_json
from infifusion.stages.rendering import tokenize_examples
from infifusion.store.artifacts import (
    LOOK_EVERY,
    MANIFEST,
    State,
    close_stage,
    open_stage,
    read_manifest,
    same_fingerprint,
    verify_files,
)
from infifusion.store.folders import PIVOT, SPLITS, RunFolder
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import stage_identity, tokenizer_of
from infifusion.store.records import read_json
from infifusion.teacher.load import window_in_config
from infifusion.types import Example


def prepare(recipe: Recipe, folder: RunFolder) -> None:
    """Write train, validation and held-out examples, rendered for the pivot and every source.

    Answers that sources wrote (stage choose) follow the examples of data.train. Left out and
    counted: empty responses, repeated examples, examples that overlap data.decontaminate, examples
    that for any of the models are longer than data.max_length or than its window, or whose response
    holds one of its special tokens.
    """
    fingerprint = _fingerprint(recipe, folder)
    while new := _only_new_sources(folder.prepare, fingerprint):
        if rank() == 0:
            add_sources(recipe, folder, new, fingerprint)
        else:
            time.sleep(LOOK_EVERY)
    if open_stage(folder.prepare, fingerprint, redo=folder.redo) is State.DONE or rank() != 0:
        return
    started = time.monotonic()
    left_out: dict[str, Any] = {}
    splits = _splits(recipe, _written(recipe, folder), left_out)
    models = {PIVOT: recipe.pivot, **recipe.sources}
    limits = {name: _longest(recipe, model) for name, model in models.items()}
    left_out["too_long"] = dict.fromkeys(models, 0)
    left_out["control_tokens"] = dict.fromkeys(models, 0)
    tokens: dict[str, int] = {}
    straddling: dict[str, int] = dict.fromkeys(models, 0)
    files = []
    for split, examples in splits.items():
        splits[split], rendered = _fitting(recipe, split, examples, limits, left_out)
        write_examples(folder.examples(split), splits[split])
        files.append(folder.examples(split))
        for name, conversations in rendered.items():
            path = folder.rendered(name, split)
            write_rendered(path, as_rendered(conversations))
            files.append(path)
            straddling[name] += sum(one.straddles for one in conversations)
            if split == "train":
                tokens[name] = sum(len(one.starts) for one in conversations)
    counts = {
        **{split: dict(Counter(e.domain for e in examples)) for split, examples in splits.items()},
        "left_out": left_out,
        "tokens": tokens,
        "straddling": straddling,
    }
    if recipe.write_responses is not None:
        writers = Counter(example.written_by for example in splits["train"])
        counts["written_by"] = {name: writers[name] for name in responding_sources(recipe)}
        if confirmed := sum(example.confirmed_by is not None for example in splits["train"]):
            counts["confirmed"] = confirmed
    close_stage(
        folder.prepare,
        fingerprint,
        counts=counts,
        seconds=time.monotonic() - started,
        files=files,
    )
    log.info("prepare: %s", _in_words(counts))


def _fitting(
    recipe: Recipe,
    split: str,
    examples: list[Example],
    limits: dict[str, int],
    left_out: dict[str, Any],
) -> tuple[list[Example], dict[str, list[Tokenized]]]:
    """The examples that fit every model, and every model's rendering of them; the others are
    counted in left_out. DataError where no training example fits."""
    rendered = {
        name: tokenize_examples(
            model,
            examples,
            plain_template=recipe.data.plain_template,
            title=f"prepare {name} {split}",
        )
        for name, model in {PIVOT: recipe.pivot, **recipe.sources}.items()
    }
    reasons: list[str | None] = [None] * len(examples)
    for name, conversations in rendered.items():
        for place, one in enumerate(conversations):
            reason = _unfit(one, limits[name], recipe.data.max_length)
            left_out["too_long"][name] += len(one.ids) > limits[name]
            left_out["control_tokens"][name] += one.control is not None
            reasons[place] = reasons[place] or (reason and f"{reason} for {name}")
    places = [place for place, reason in enumerate(reasons) if reason is None]
    if split == "train" and not places:
        raise DataError(
            f"No training example is left of {len(examples)}; the first, {examples[0].id}, "
            f"{reasons[0]}."
        )
    kept = {name: [found[place] for place in places] for name, found in rendered.items()}
    return [examples[place] for place in places], kept


def add_sources(
    recipe: Recipe, folder: RunFolder, names: list[str], fingerprint: dict[str, Any]
) -> None:
    """Render the examples of a finished `prepare` for further sources; nothing else changes.

    Raises DataError when an example does not fit one of them: with it, other examples would have
    been chosen.
    """
    started = time.monotonic()
    manifest = read_manifest(folder.prepare, made_by="prepare")
    verify_files(folder.prepare, manifest)
    counts = manifest["counts"]
    files = [folder.prepare / name for name in manifest["files"]]
    for name in names:
        straddling = 0
        limit = _longest(recipe, recipe.sources[name])
        for split in SPLITS:
            examples = load_examples(folder.examples(split))
            conversations = tokenize_examples(
                recipe.sources[name],
                examples,
                plain_template=recipe.data.plain_template,
                title=f"prepare {name} {split}",
            )
            for example, one in zip(examples, conversations, strict=True):
                if reason := _unfit(one, limit, recipe.data.max_length):
                    raise DataError(
                        f"{example.id} {reason} for the new source {name}; the run was prepared "
                        "without it. Prepare anew, which also repeats the teacher passes: --redo, "
                        "or another --run-dir."
                    )
            write_rendered(folder.rendered(name, split), as_rendered(conversations))
            files.append(folder.rendered(name, split))
            straddling += sum(one.straddles for one in conversations)
            if split == "train":
                counts["tokens"][name] = sum(len(one.starts) for one in conversations)
        for counted in ("too_long", "control_tokens"):
            counts["left_out"].setdefault(counted, {})[name] = 0
        counts["straddling"][name] = straddling
    seconds = manifest["seconds"] + time.monotonic() - started
    close_stage(folder.prepare, fingerprint, counts=counts, seconds=seconds, files=files)
    log.info("prepare: added %s to %s", ", ".join(names), folder.prepare)


def _longest(recipe: Recipe, model: Model) -> int:
    """Tokens of the longest conversation that the model is given."""
    return min(recipe.data.max_length, window_in_config(model) or recipe.data.max_length)


def _unfit(one: Tokenized, limit: int, max_length: int) -> str | None:
    """Why an example is left out, and what would help; None where it fits."""
    if len(one.ids) > limit:
        if limit < max_length:
            return f"has {len(one.ids)} tokens, more than the window of {limit} tokens"
        return f"has {len(one.ids)} tokens, longer than data.max_length ({max_length}; raise it)"
    if one.control is not None:
        return f"holds the special token {one.control} in its response, as text (remove it there)"
    return None


def _only_new_sources(out: Path, fingerprint: dict[str, Any]) -> list[str]:
    """The sources that the fingerprint has more than the finished folder, if nothing else
    differs."""
    if not (out / MANIFEST).exists():
        return []
    found = read_json(out / MANIFEST)
    known = found["fingerprint"]["tokenizers"]
    new = [name for name in fingerprint["tokenizers"] if name not in known]
    before = {k: v for k, v in fingerprint["tokenizers"].items() if k not in new}
    return new if same_fingerprint(found, {**fingerprint, "tokenizers": before}) else []


def _written(recipe: Recipe, folder: RunFolder) -> list[Example]:
    """The answers that were kept, verified; none where the recipe asks for none."""
    if recipe.write_responses is None:
        return []
    verify_files(folder.choose, read_manifest(folder.choose, made_by="choose"))
    return load_responses(folder.responses)


def _fingerprint(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    def files(sources: list[DataSource]) -> dict[str, str]:
        return {s.path: sha256_of(Path(s.path)) for s in sources if Path(s.path).is_file()}

    data = recipe.data
    responses = {}
    if recipe.write_responses is not None:
        read_manifest(folder.choose, made_by="choose")
        responses = {"responses": stage_identity(folder.choose)}
    return {
        **responses,
        "data": as_json(data),
        "files": {**files(data.train), **files(data.held_out), **files(data.decontaminate)},
        "tokenizers": {
            PIVOT: tokenizer_of(recipe.pivot),
            **{name: tokenizer_of(model) for name, model in recipe.sources.items()},
        },
        "seed": recipe.seed,
    }


def _splits(
    recipe: Recipe, written: list[Example], left_out: dict[str, Any]
) -> dict[str, list[Example]]:
    """Examples of each split, before any is found too long."""
    empty = 0

    def read(sources: list[DataSource]) -> list[Example]:
        nonlocal empty
        examples: list[Example] = []
        for source in sources:
            some, none = read_examples(source, seed=recipe.seed)
            examples += some
            empty += none
        return examples

    given = _confirmed(read(recipe.data.train), written)
    train = _with_own_ids([*given, *written])
    if not train:
        raise DataError(
            "The training data holds no example with a response. Look at the fields that `prompt` "
            "and `response` (or `messages`) of data.train name."
        )
    unique = without_duplicates(train)
    left_out["duplicate"] = len(train) - len(unique)
    clean = unique
    if recipe.data.decontaminate:
        clean = without_overlap(
            unique, read(recipe.data.decontaminate), length=recipe.data.decontaminate_ngram
        )
        if not clean:
            raise DataError(
                "Every training example overlaps data.decontaminate. Give other training data, or "
                "raise data.decontaminate_ngram."
            )
    left_out["contaminated"] = len(unique) - len(clean)
    train, validation = _split_validation(clean, recipe.data.validation_share, recipe.seed)
    held_out = _with_own_ids(read(recipe.data.held_out))
    left_out["empty_response"] = empty
    return dict(zip(SPLITS, (train, validation, held_out), strict=True))


def _confirmed(given: list[Example], written: list[Example]) -> list[Example]:
    """The given examples; those whose response a source wrote, too, say which source."""
    if not written:
        return given
    writers = {text_of(example): example.written_by for example in written}
    return [replace(example, confirmed_by=writers.get(text_of(example))) for example in given]


def _with_own_ids(examples: list[Example]) -> list[Example]:
    """The same examples; an id that stands twice gets a number."""
    names = own_names([example.id for example in examples])
    return [replace(example, id=name) for example, name in zip(examples, names, strict=True)]


def _split_validation(
    examples: list[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Keep `share` of each domain apart, chosen by the seed; both lists keep their order.

    What a source wrote is no yardstick: only given responses are kept apart.
    """
    apart: set[str] = set()
    for domain in sorted({example.domain for example in examples}):
        ids = [e.id for e in examples if e.domain == domain and e.written_by is None]
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
    control = max(left["control_tokens"].values(), default=0)
    return (
        ", ".join(parts)
        + f"; left out: {gone} empty, repeated or overlapping, {longest} too long"
        + (f", {control} with special tokens in the response" if control else "")
    )
