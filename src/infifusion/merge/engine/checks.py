"""What a merge looks at before it begins: that the models belong together, and that transformers
will load the result with every tensor in its place."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from infifusion.merge.checkpoints.result_check import ask
from infifusion.merge.checkpoints.tokens import same_tokens
from infifusion.merge.engine.model import Model
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
    found = _answer(
        {
            "models": [described(model) for model in models],
            "config": config_of(plan),
            "specs": {n: (one.spec.dtype, one.spec.shape) for n, one in plan.tensors.items()},
            "layers": [(numbers[model.key], layer) for model, layer in plan.layers],
        }
    )
    return replace(plan, config=found["config"], notes=[*notes, *found["notes"]])


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    """The check's answer. One without notes is kept in the cache folder, by what was asked but for
    names and folders: loading transformers takes longer than a small merge."""
    models = [{**one, "name": "", "folder": ""} for one in question["models"]]
    text = json.dumps([VERSION, version("transformers"), {**question, "models": models}])
    path = cache_folder() / "merge_checks" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return {"config": kept, "notes": []}
    found = ask(question)
    if not found["notes"]:
        with contextlib.suppress(OSError), atomic_write(path) as temporary:
            temporary.write_text(json.dumps(found["config"]), encoding="utf-8")
    return found


def described(model: Model) -> dict[str, Any]:
    """What the check has to know of a model."""
    checkpoint = model.checkpoint
    return {
        "name": model.name,
        "folder": str(model.folder),
        "config": model.config,
        "specs": {n: (checkpoint.dtype(n), model.shape(n)) for n in checkpoint.names},
    }
