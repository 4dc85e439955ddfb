"""What a merge looks at before it begins: that the models belong together, and that transformers
will load the result with every tensor in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from infifusion.merge.checkpoints.result_check import ask
from infifusion.merge.checkpoints.tokens import same_tokens
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.result_config import config_of


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
    found = ask(
        {
            "models": [described(model) for model in models],
            "config": config_of(plan),
            "specs": {n: (one.spec.dtype, one.spec.shape) for n, one in plan.tensors.items()},
            "layers": [(numbers[model.key], layer) for model, layer in plan.layers],
        }
    )
    return replace(plan, config=found["config"], notes=[*notes, *found["notes"]])


def described(model: Model) -> dict[str, Any]:
    """What the check has to know of a model."""
    checkpoint = model.checkpoint
    return {
        "name": model.name,
        "folder": str(model.folder),
        "config": model.config,
        "specs": {n: (checkpoint.dtype(n), model.shape(n)) for n in checkpoint.names},
    }
