"""init: a commented recipe from a template, the user's models and data, and this machine's size."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infifusion.data.files import LOCAL_SUFFIXES, files_of, first_record, is_local
from infifusion.data.formats import likely_keys, recognise
from infifusion.data.lines import Record
from infifusion.errors import CheckpointError, DataError, RecipeError
from infifusion.estimate.tasks import require_known
from infifusion.merge.engine.file import MergeFile
from infifusion.recipe import DataFile, Recipe, anchor
from infifusion.setup.init_sizes import sizes_for
from infifusion.setup.machine import this_machine
from infifusion.setup.templates import MERGE_ONLY, START, template_text, with_sections
from infifusion.store.durable import atomic_write


@dataclass(frozen=True)
class Wishes:
    """What the user said. sources: name -> model; train and held_out: (domain, path)."""

    template: str | None = None
    pivot: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    train: tuple[tuple[str, str], ...] = ()
    held_out: tuple[tuple[str, str], ...] = ()
    tasks: tuple[str, ...] = ()


def write_recipe(wishes: Wishes, out: Path, *, force: bool) -> list[str]:
    """Write the file; returns what there is to say about it, line by line.

    Raises RecipeError, CheckpointError or DataError, before any file is written, for a file that is
    there (without `force`), a model or data that is not, and columns whose names say nothing.
    """
    name = wishes.template or START
    text = template_text(name)
    if out.exists() and not force:
        raise RecipeError(f"{out} exists already. Give another --out, or --force to replace it.")
    out.parent.mkdir(parents=True, exist_ok=True)  # relative paths are looked up from there
    shown = shlex.quote(str(out))
    if name == MERGE_ONLY:
        text = with_sections(text, _merge_sections(wishes, out))
        MergeFile.from_mapping(yaml.safe_load(text), where=str(out))
        said = [f"Wrote {out}. Next: infifusion merge {shown} OUT_DIR --plan"]
    else:
        text = with_sections(text, _sections(wishes, out))
        recipe = _recipe(text, out)
        said = [f"Wrote {out}. Next: infifusion check {shown}"]
        if name == START:
            text, notes = _sized(text, recipe)
            _recipe(text, out)
            said = [*notes, *said]
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return said


def _recipe(text: str, out: Path) -> Recipe:
    recipe = Recipe.from_mapping(yaml.safe_load(text), where=str(out))
    return anchor(recipe, out.parent.resolve())


def _sections(wishes: Wishes, out: Path) -> dict[str, str]:
    """The parts of a recipe that were asked for, as YAML."""
    found: dict[str, str] = {}
    if wishes.template is None:
        stem = "fused" if out.stem == "recipe" else out.stem
        found["name"] = f"name: {re.sub(r'[^A-Za-z0-9._-]+', '-', stem).lstrip('-._') or 'fused'}"
    if wishes.pivot is not None:
        found["pivot"] = f"pivot: {_flow({'model': _model(wishes.pivot, out)})}"
    if wishes.sources:
        lines = [f"  {n}: {_flow({'model': _model(m, out)})}" for n, m in wishes.sources.items()]
        found["sources"] = "\n".join(["sources:", *lines])
    if wishes.train:
        found["data"] = _data(wishes, out)
    elif wishes.held_out:
        raise RecipeError("--held-out needs --train: give the training data too.")
    if wishes.tasks:
        for task in wishes.tasks:
            require_known(task, where="--tasks")
        values = yaml.safe_load(template_text(wishes.template or START)).get("evaluate", {})
        found["evaluate"] = _block("evaluate", {**values, "tasks": list(wishes.tasks)})
    return found


def _merge_sections(wishes: Wishes, out: Path) -> dict[str, str]:
    if wishes.train or wishes.held_out or wishes.tasks:
        raise RecipeError(
            f"--template {MERGE_ONLY} merges weights alone: leave out --train, --held-out and "
            "--tasks, or take another template."
        )
    found = {}
    if wishes.pivot is not None:
        found["base_model"] = f"base_model: {_scalar(_model(wishes.pivot, out))}"
    if wishes.sources:
        lines = [f"  - model: {_scalar(_model(m, out))}" for m in wishes.sources.values()]
        found["models"] = "\n".join(["models:", *lines])
    return found


def _data(wishes: Wishes, out: Path) -> str:
    """The data section: every file with its columns, as far as their names say them."""
    lines = ["data:", "  train:", *(_entry(domain, path, out) for domain, path in wishes.train)]
    if wishes.held_out:
        lines += ["  held_out:", *(_entry(d, path, out) for d, path in wishes.held_out)]
    else:
        lines += [
            "  # Examples that are never trained on, for bits per byte by domain:",
            "  # held_out: [{path: ./data/test.jsonl, domain: math}]",
        ]
    return "\n".join(
        [*lines, "  validation_share: 0.02", "  max_length: 2048    # longer ones are left out"]
    )


def _entry(domain: str, path: str, out: Path) -> str:
    local = Path(path).expanduser()
    source = DataFile(path=str(local), domain=domain)
    file = path.startswith((".", "/", "~")) or is_local(source)
    if file and not files_of(source):
        kinds = ", ".join(LOCAL_SUFFIXES)
        raise DataError(f"There is no data file {path}. Give the path of a {kinds} file.")
    keys, comment = _keys_of_file(str(local) if file else path)
    entry = _flow({"path": _place(path, out), "domain": domain, **keys})
    return f"    - {entry}{f'    # {comment}' if comment else ''}"


def keys_of(record: Record, where: str) -> tuple[dict[str, str], str]:
    """The keys of a data entry beside path and domain, and a comment for it.

    None for a known format, which is recognised again when it is read; else prompt and response (or
    messages) by the names of the columns. DataError where they say nothing.
    """
    try:
        form = recognise(record, where)
    except DataError:
        keys = likely_keys(record)
        if not keys:
            raise
        return keys, ""
    return {}, f"{form.name} ({', '.join(form.present(record))})"


def _keys_of_file(path: str) -> tuple[dict[str, str], str]:
    """The same by a data set's first record; of the hub's, nothing where it cannot be read now."""
    source = DataFile(path=path, domain="any")
    try:
        first = first_record(source)
    except DataError:
        if is_local(source):
            raise
        return {}, "the data set could not be asked; `infifusion check` says how it reads"
    if first is None:
        raise DataError(f"{path} holds no examples. Give a file with one JSON object a line.")
    return keys_of(first, path)


def _sized(text: str, recipe: Recipe) -> tuple[str, list[str]]:
    """The text with sizes that fit this machine, and why in its comments; notes for the user."""
    sizes = sizes_for(recipe, this_machine())
    values = yaml.safe_load(text)
    runs = {name: {**run, **sizes.distill} for name, run in values["distill"].items()}
    lines = [f"  {name}: {_flow(run)}" for name, run in runs.items()]
    notes = [f"Note: {note}." for note in sizes.notes]
    if not sizes.fits:
        notes.append(
            "Note: no setting fits this machine by the plan's estimate. Take a smaller pivot, a "
            "shorter data.max_length or a larger machine (infifusion plan RECIPE --device h100)."
        )
    text = with_sections(
        text,
        {
            "teach": f"{_comment(sizes.why['teach'])}\n{_block('teach', sizes.teach)}",
            "training": f"{_comment(sizes.why['training'])}\n"
            + _block("training", {**values["training"], **sizes.training}),
            "distill": "\n".join([_comment(sizes.why["distill"]), "distill:", *lines]),
            "evaluate": _block("evaluate", {**values["evaluate"], **sizes.evaluate}),
        },
    )
    return text, notes


def _model(name: str, out: Path) -> str:
    folder = Path(name).expanduser()
    if not folder.exists() and name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"There is no model folder {name}. Give a folder with config.json and safetensors "
            "weights, a GGUF file, or a hub name such as Qwen/Qwen2.5-0.5B-Instruct."
        )
    return _place(name, out)


def _place(path: str, out: Path) -> str:
    """A local path as the recipe's folder sees it; a hub name as it is."""
    local = Path(path).expanduser()
    if not local.exists():
        return path
    if local.is_absolute():
        return str(local)
    seen = os.path.relpath(local.resolve(), out.parent.resolve())
    return seen if seen.startswith(".") else f"./{seen}"


def _block(key: str, values: Mapping[str, Any]) -> str:
    lines = [f"  {name}: {_scalar(value)}" for name, value in values.items()]
    return "\n".join([f"{key}:", *lines])


def _comment(sentence: str) -> str:
    return textwrap.indent(textwrap.fill(f"{sentence}.", 96, break_long_words=False), "# ")


def _flow(value: Any) -> str:
    return yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    ).strip()


def _scalar(value: Any) -> str:
    """One value in a line."""
    return _flow([value])[1:-1]
