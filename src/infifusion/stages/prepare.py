"""prepare: data sets in, examples and every model's rendering of them out."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path

from infifusion.data.files import files_of
from infifusion.data.prompts import responding_sources
from infifusion.data.splits import read_splits
from infifusion.data.store import load_examples, load_responses, write_examples, write_rendered
from infifusion.data.tokenize import Tokenized, as_rendered
from infifusion.errors import DataError
from infifusion.process.runtime import log, rank
from infifusion.process.wording import counted
from infifusion.recipe import DataSource, Recipe
from infifusion.stages.rendering import require_readable, tokenize_each
from infifusion.store.artifacts import (
    LOOK_EVERY,
    MANIFEST,
    close_stage,
    differences_to,
    read_manifest,
    verify_files,
)
from infifusion.store.folders import PIVOT, SPLITS, RunFolder, model_called
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import data_identity, stage_identity, tokenizer_fields
from infifusion.store.records import Json, read_json, write_json
from infifusion.store.stage import Finished, Stage, run_stage
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
    answered = recipe.write_responses is not None
    stage = Stage(
        title="prepare",
        folder=folder.prepare,
        fingerprint=fingerprint,
        reads=[folder.choose] if answered else [],
        work=partial(_work, recipe, folder),
        first_process_only=True,
    )
    run_stage(stage, folder)


def _work(recipe: Recipe, folder: RunFolder) -> Finished:
    answered = recipe.write_responses is not None
    splits, left_out = read_splits(recipe, load_responses(folder.responses) if answered else [])
    models = {PIVOT: recipe.pivot, **recipe.sources}
    counts: Json = {
        "left_out": {
            **left_out,
            "too_long": dict.fromkeys(models, 0),
            "control_tokens": dict.fromkeys(models, 0),
            "unreadable": dict.fromkeys(models, 0),
        },
        "tokens": {},
        "straddling": {},
    }
    files = []
    for split, examples in splits.items():
        splits[split], rendered = _fitting(recipe, split, examples, counts["left_out"])
        write_examples(folder.examples(split), splits[split])
        files.append(folder.examples(split))
        files += [_write(folder, split, name, found, counts) for name, found in rendered.items()]
    train = splits["train"]
    if any(source.weight != 1 for source in recipe.data.train):
        sets = [-1 if e.data_set is None else e.data_set for e in train]
        write_json(folder.data_sets, {"data_sets": sets})
        files.append(folder.data_sets)
    domains = {split: dict(Counter(e.domain for e in some)) for split, some in splits.items()}
    counts = {**domains, **counts}
    if answered:
        writers = Counter(example.written_by for example in train)
        counts["written_by"] = {name: writers[name] for name in responding_sources(recipe)}
        if confirmed := sum(example.confirmed_by is not None for example in train):
            counts["confirmed"] = confirmed
    return Finished(files, counts, _in_words(counts))


def _write(
    folder: RunFolder, split: str, name: str, conversations: list[Tokenized], counts: Json
) -> Path:
    """Write a model's rendering of one split, and count it."""
    path = folder.rendered(name, split)
    write_rendered(path, as_rendered(conversations))
    straddling = sum(one.straddles for one in conversations)
    counts["straddling"][name] = counts["straddling"].get(name, 0) + straddling
    if unreasoned := sum(one.unreasoned for one in conversations):
        known = counts.setdefault("unreasoned", {})
        known[name] = known.get(name, 0) + unreasoned
    if split == "train":
        counts["tokens"][name] = sum(len(one.starts) for one in conversations)
    return path


def _tokenized(
    recipe: Recipe, name: str, split: str, examples: list[Example]
) -> list[Tokenized | str]:
    """Every example's tokens, or why the model cannot be given it. TokenizerError where these are
    too many."""
    done = tokenize_each(
        model_called(recipe, name),
        examples,
        plain_template=recipe.data.plain_template,
        title=f"prepare {name} {split}",
    )
    require_readable(done, name=name, where=f"{split.replace('_', '-')} examples")
    for reason in (one for one in done if isinstance(one, str)):
        log.warning("prepare: left out for %s: %s", name, reason)
    return done


def _fitting(
    recipe: Recipe, split: str, examples: list[Example], left_out: Json
) -> tuple[list[Example], dict[str, list[Tokenized]]]:
    """The examples that fit every model, and every model's rendering of them; the others are
    counted in left_out. DataError where no training example fits."""
    names = [PIVOT, *recipe.sources]
    rendered = {name: _tokenized(recipe, name, split, examples) for name in names}
    reasons: list[str | None] = [None] * len(examples)
    for name, conversations in rendered.items():
        limit = _longest(recipe, name)
        for place, one in enumerate(conversations):
            if isinstance(one, str):
                left_out["unreadable"][name] += 1
                reason = "cannot be given to it"
            else:
                reason = _unfit(one, limit, recipe.data.max_length)
                left_out["too_long"][name] += len(one.ids) > limit
                left_out["control_tokens"][name] += one.control is not None
            reasons[place] = reasons[place] or (reason and f"{reason} for {name}")
    places = [place for place, reason in enumerate(reasons) if reason is None]
    if split == "train" and not places:
        raise DataError(
            f"No training example is left of {len(examples)}; the first, {examples[0].id}, "
            f"{reasons[0]}."
        )
    kept = {
        name: [one for place in places if isinstance(one := found[place], Tokenized)]
        for name, found in rendered.items()
    }
    return [examples[place] for place in places], kept


def add_sources(recipe: Recipe, folder: RunFolder, names: list[str], fingerprint: Json) -> None:
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
        limit = _longest(recipe, name)
        for split in SPLITS:
            examples = load_examples(folder.examples(split))
            conversations = _tokenized(recipe, name, split, examples)
            for example, one in zip(examples, conversations, strict=True):
                reason = one if isinstance(one, str) else _unfit(one, limit, recipe.data.max_length)
                if reason:
                    raise DataError(
                        f"{example.id} {reason} for the new source {name}; the run was prepared "
                        "without it. Prepare anew, which also repeats the teacher passes: --redo, "
                        "or another --run-dir."
                    )
            fitting = [one for one in conversations if isinstance(one, Tokenized)]
            files.append(_write(folder, split, name, fitting, counts))
        for reason in ("too_long", "control_tokens", "unreadable"):
            counts["left_out"].setdefault(reason, {})[name] = 0
    seconds = manifest["seconds"] + time.monotonic() - started
    close_stage(folder.prepare, fingerprint, counts=counts, seconds=seconds, files=files)
    log.info("prepare: added %s to %s", ", ".join(names), folder.prepare)


def _longest(recipe: Recipe, name: str) -> int:
    """Tokens of the longest conversation that the model is given."""
    window = window_in_config(model_called(recipe, name))
    return min(recipe.data.max_length, window or recipe.data.max_length)


def _unfit(one: Tokenized, limit: int, max_length: int) -> str | None:
    """Why an example is left out, and what would help; None where it fits."""
    if len(one.ids) > limit:
        if limit < max_length:
            return f"has {len(one.ids)} tokens, more than the window of {limit} tokens"
        return f"has {len(one.ids)} tokens, longer than data.max_length ({max_length}; raise it)"
    if one.control is not None:
        return f"holds the special token {one.control} in its response, as text (remove it there)"
    return None


def _only_new_sources(out: Path, fingerprint: Json) -> list[str]:
    """The sources that the fingerprint has more than the finished folder, if nothing else
    differs."""
    if not (out / MANIFEST).exists():
        return []
    found = read_json(out / MANIFEST)
    known = found["fingerprint"]["tokenizers"]
    new = [name for name in fingerprint["tokenizers"] if name not in known]
    before = {k: v for k, v in fingerprint["tokenizers"].items() if k not in new}
    return [] if differences_to(found, {**fingerprint, "tokenizers": before}) else new


def _fingerprint(recipe: Recipe, folder: RunFolder) -> Json:
    def files(sources: list[DataSource]) -> dict[str, str]:
        return {str(f): sha256_of(f) for source in sources for f in files_of(source)}

    data = recipe.data
    responses = {}
    if recipe.write_responses is not None:
        read_manifest(folder.choose, made_by="choose")
        responses = {"responses": stage_identity(folder.choose)}
    return {
        **responses,
        "data": data_identity(data),
        "files": {**files(data.train), **files(data.held_out), **files(data.decontaminate)},
        "tokenizers": {
            PIVOT: tokenizer_fields(recipe.pivot),
            **{name: tokenizer_fields(model) for name, model in recipe.sources.items()},
        },
        "seed": recipe.seed,
    }


def _in_words(counts: Json) -> str:
    parts = [
        counted(sum(counts[split].values()), f"{split.replace('_', '-')} example")
        for split in SPLITS
        if counts[split]
    ]
    left = counts["left_out"]
    gone = left["empty_response"] + left["duplicate"] + left["contaminated"]
    longest = max(left["too_long"].values(), default=0)
    control = max(left["control_tokens"].values(), default=0)
    unreadable = max(left["unreadable"].values(), default=0)
    unreasoned = ", ".join(f"{n} for {name}" for name, n in counts.get("unreasoned", {}).items())
    return (
        ", ".join(parts)
        + f"; left out: {gone} empty, repeated or overlapping, {longest} too long"
        + (f", {control} with special tokens in the response" if control else "")
        + (f", {unreadable} that a model cannot be given" if unreadable else "")
        + (f"; learnt without the reasoning, by the template: {unreasoned}" if unreasoned else "")
    )
