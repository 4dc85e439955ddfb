"""What a merge looks at before it begins: that the models belong together, and that transformers
will load the result with every tensor in its place."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.result_check import ask
from infifusion.merge.checkpoints.tokens import same_tokens
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.modules import LANGUAGE, kind_of
from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.result_config import config_of
from infifusion.process import VERSION
from infifusion.store.artifacts import cache_folder
from infifusion.store.durable import atomic_write


def checked(plan: MergePlan, *, tokens: bool = True) -> MergePlan:
    """The plan with its config and with notes for the user. tokens: whether rows that stand for
    other tokens are an error.

    Raises CheckpointError where configs or tokenizers say that the models do not belong together,
    and where transformers would not load the result with every tensor in its place: none lacking,
    left over, of another shape or newly initialised, every stacked layer of the kind that it had.
    """
    models = plan.everyone
    notes = list(plan.notes)
    if tokens and plan.vocabulary is None:
        notes += same_tokens(plan.donor, models)
    numbers = {model.key: number for number, model in enumerate(models)}
    speaking = _by_language(plan)
    found = answered(
        {
            "models": [described(one, text=one.key in speaking) for one in models],
            "config": config_of(plan),
            "specs": {n: (one.spec.dtype, one.spec.shape) for n, one in plan.tensors.items()},
            "layers": [(numbers[model.key], layer) for model, layer in plan.layers],
        }
    )
    return replace(plan, config=found["config"], notes=[*notes, *found["notes"]])


def answered(question: dict[str, Any]) -> dict[str, Any]:
    """The check's answer, kept in the cache folder by what was asked but for names and folders:
    loading transformers takes longer than a small merge. Errors are not kept."""
    models, words = question["models"], {}
    folders = list(dict.fromkeys(one["folder"] for one in models))
    asked = []
    for number, one in enumerate(models):
        name, folder = f"<<model {number}>>", f"<<folder {folders.index(one['folder'])}>>"
        words |= {name: one["name"], folder: one["folder"]}
        asked.append({**one, "name": name, "folder": folder})
    question = {**question, "models": asked}
    text = json.dumps([VERSION, version("transformers"), question])
    path = cache_folder() / "merge_checks" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and kept.keys() == {"config", "notes"}:
            return {**kept, "notes": [_with(words, note) for note in kept["notes"]]}
    try:
        found = ask(question)
    except CheckpointError as error:
        raise CheckpointError(_with(words, str(error))) from error
    with contextlib.suppress(OSError), atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8")
    return {**found, "notes": [_with(words, note) for note in found["notes"]]}


def _with(words: dict[str, str], text: str) -> str:
    """The text with names and folders in their places."""
    for place, word in words.items():
        text = text.replace(place, word)
    return text


def _by_language(plan: MergePlan) -> set[tuple[Path, ...]]:
    """The models (by key) of whose language model something is merged."""
    found = set()
    for planned in plan.tensors.values():
        for model, inner in [] if planned.kept else planned.parts:
            if model.key not in found:
                kind = kind_of(inner, model.language or model.stack)
                found |= {model.key} if kind in (LANGUAGE, None) else set()
    return found


def described(model: Model, *, text: bool = True) -> dict[str, Any]:
    """What the check has to know of a model. text: whether its language model is merged."""
    whole = model.whole or model
    checkpoint = whole.checkpoint
    return {
        "name": model.name,
        "folder": str(model.folder),
        "config": model.config,
        "specs": {n: (checkpoint.dtype(n), whole.shape(n)) for n in checkpoint.names},
        "text": text,
    }
