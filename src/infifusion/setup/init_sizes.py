"""Sizes of a recipe that fit a machine: how much is trained, batches, rows of the head, top-K.

Asks infifusion.estimate.costs for the memory of every stage, from the most generous setting to
the least, and takes the first that fits.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError, DataError
from infifusion.estimate.costs.case import PIVOT, Case
from infifusion.estimate.costs.devices import CPU, device_marketed_as
from infifusion.estimate.costs.rows import estimate
from infifusion.estimate.costs.schedule import FEWEST_STEPS, logging_steps, schedule_of
from infifusion.estimate.costs.shapes import KNOWN_CONFIGS
from infifusion.estimate.models import facts_of_all, with_folders
from infifusion.estimate.plan import hardware_of
from infifusion.estimate.table import size
from infifusion.estimate.tokens import Given, lengths_of
from infifusion.recipe import Recipe
from infifusion.setup.machine import Machine
from infifusion.store.folders import RunFolder

SHARE = 0.9
"""Of the memory that a stage may take: an estimate is not exact."""
STEP_EXAMPLES = 32
"""Most examples of an optimizer step, over all micro-batches and devices."""
GOOD_STEPS = 100
"""Steps that a run has where the data allows it: few examples are taken in smaller steps."""
EPOCHS, MOST_EPOCHS = 2, 5
HEAD_BYTES = 3 * 4
"""Per loss row and vocabulary entry: three float32 tensors (recipe.Distill.loss_rows)."""
UNKNOWN = Given(examples=10_000, tokens=600, response=None)
"""Of data that cannot be read now."""
UNKNOWN_DEVICE = "a100-40"
"""Whose rates stand in for a GPU that the device table lacks; its own memory is asked for."""
TEACH = [{"teach": {"batch_tokens": n}} for n in (32768, 16384, 8192, 4096, 2048, 1024)]
EVALUATE = [{"evaluate": {"batch_size": n}} for n in (64, 32, 16, 8, 4, 1)]
"""From the most generous setting to the least."""
FEW_PARAMETERS = 50e6
"""Models below this, such as the demo's, are trained with a hundred times the learning rate."""
SMALL_PARAMETERS = 1e9
"""Models below this take five times the learning rate of larger ones where all weights are trained:
at 5e-5 SmolLM2-135M learnt in 25 steps of 8 (docs/log.md)."""


@dataclass(frozen=True)
class Sizes:
    """What was chosen. training, distill, teach, evaluate: keys of the recipe. why: key -> reason.
    notes: what was not known. fits: False where nothing does."""

    training: dict[str, Any]
    distill: dict[str, Any]
    teach: dict[str, Any]
    evaluate: dict[str, Any]
    why: dict[str, str]
    notes: list[str]
    fits: bool


def sizes_for(recipe: Recipe, machine: Machine) -> Sizes:
    """The first settings that fit, best ones first."""
    notes: list[str] = []
    case, limit, where = _case(recipe, machine, notes)
    rows = _loss_rows(case, limit)
    teach, fits = _first(case, TEACH, "teach", limit)
    evaluate, _ = _first(case, EVALUATE, "evaluate", limit)
    changed, train_fits = _first(case, _train_settings(machine, rows), "distill", limit)
    fitted = _changed(case, teach, changed, evaluate)
    found = estimate(fitted)
    cache = sum(row.bytes for row in found if row.stage == "teach")
    top_k = recipe.teach.top_k
    free = shutil.disk_usage(Path.cwd()).free
    if cache > free / 4:
        top_k = 5
    peak = {
        stage: max((row.memory for row in found if row.stage == stage), default=0.0)
        for stage in ("teach", "distill", "evaluate")
    }
    training, distill = dict(changed["training"]), dict(changed["distill"])
    batch = training["per_device_train_batch_size"]
    devices = max(1, len(machine.gpus))
    examples = case.train(PIVOT).examples
    together = _step_examples(examples)
    batch = max(1, min(batch, together // devices))
    accumulation = max(1, together // (batch * devices))
    training["per_device_train_batch_size"] = batch
    training["gradient_accumulation_steps"] = accumulation
    training["num_train_epochs"] = _epochs(examples, batch * accumulation * devices)
    steps = schedule_of(training, examples=examples, devices=devices).steps
    training["logging_steps"] = logging_steps(steps, 10)
    training["learning_rate"] = _learning_rate(case, distill)
    if machine.gpus:
        training["bf16"] = True
    how = "adapters (LoRA)" if "lora" in distill else "all weights"
    share = " over all GPUs (FSDP2)" if distill.get("parallel") == "fsdp" else ""
    return Sizes(
        training=training,
        distill=distill,
        teach={"top_k": top_k, **teach["teach"]},
        evaluate=evaluate["evaluate"],
        why={
            "teach": f"K = {top_k}: the cache takes about {size(cache)}, {size(free)} are free; "
            f"a pass needs about {size(peak['teach'])} of memory",
            "training": f"{how}{share}: about {size(peak['distill'])} of the {size(limit)} that "
            f"may be used of {where}; {devices} x {batch} x {accumulation} = "
            f"{devices * batch * accumulation} examples a step, {steps:,} steps",
            "distill": f"loss_rows {distill['loss_rows']}: about "
            f"{size(HEAD_BYTES * distill['loss_rows'] * case.models[PIVOT].shape.vocabulary)} of "
            "logits at once",
        },
        notes=notes,
        fits=fits and train_fits,
    )


def _case(recipe: Recipe, machine: Machine, notes: list[str]) -> tuple[Case, float, str]:
    """What the estimate is made from, bytes of memory, and what has them."""
    gpu = machine.gpus[0] if machine.gpus else None
    if gpu is None:
        hardware, limit = hardware_of(CPU, 1, 1, []), float(machine.free_memory)
        where = f"this machine's free memory ({machine.cores} cores, no GPU)"
    else:
        limit = float(min(one.memory for one in machine.gpus))
        known = device_marketed_as(gpu.name) or UNKNOWN_DEVICE
        hardware = replace(hardware_of(known, len(machine.gpus), 1, []), memory=limit)
        where = f"{len(machine.gpus)} x {gpu.name}"
    recipe = with_folders(recipe)
    models = {PIVOT: recipe.pivot, **recipe.sources}
    shapes = []
    for name, model in models.items():
        try:
            facts_of_all({name: model}, [], [])
        except CheckpointError:
            like = _like(model.model)
            shapes.append(f"{name}={like}")
            notes.append(f"{model.model} could not be looked at: sizes as of {like}")
    facts = facts_of_all(models, shapes, [])
    folder = RunFolder(Path("runs") / recipe.name)
    try:
        lengths = lengths_of(recipe, folder, None, [])
    except DataError as error:
        if any(Path(source.path).exists() for source in recipe.data.train):
            raise
        notes.append(
            f"the data could not be read ({str(error).partition('. ')[0]}): sizes for "
            f"{UNKNOWN.examples:,} examples of {UNKNOWN.tokens} tokens"
        )
        lengths = lengths_of(recipe, folder, UNKNOWN, [])
    return Case(recipe, facts, lengths, [], hardware), SHARE * limit, where


def _like(name: str) -> str:
    """The public shape nearest to the size in a model's name, such as 7B, of its family if that is
    known; 8b-llama where the name has no size."""
    said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", name.lower())
    if said is None:
        return "8b-llama"
    family = [short for short in KNOWN_CONFIGS if short.partition("-")[2] in name.lower()]
    return min(
        family or KNOWN_CONFIGS,
        key=lambda short: abs(float(short.partition("b-")[0]) - float(said.group(1))),
    )


def _train_settings(machine: Machine, rows: int) -> Iterator[dict[str, Any]]:
    """From all weights with large batches to adapters with batches of one."""
    lora = {"lora": {"r": 16, "alpha": 32}}
    ways: list[tuple[dict[str, Any], bool]] = [({}, False), ({}, True)]
    if len(machine.gpus) > 1:
        ways.append(({"parallel": "fsdp"}, True))
    ways += [(lora, False), (lora, True)]
    for more, recompute in ways:
        for batch in (8, 4, 2, 1):
            training: dict[str, Any] = {"per_device_train_batch_size": batch}
            if recompute:
                training["gradient_checkpointing"] = True
            yield {"training": training, "distill": {**more, "loss_rows": rows}}


def _first(
    case: Case, settings: Iterable[dict[str, Any]], stage: str, limit: float
) -> tuple[dict[str, Any], bool]:
    """The first settings whose stage stays under the limit, or the last and False."""
    tried: dict[str, Any] = {}
    for tried in settings:
        rows = [row for row in estimate(_changed(case, tried)) if row.stage == stage]
        if all(row.memory <= limit for row in rows):
            return tried, True
    return tried, False


def _changed(case: Case, *settings: dict[str, Any]) -> Case:
    """The case with settings put into its recipe."""
    values = case.recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for one in settings:
        for key, found in one.items():
            if key == "distill":
                values["distill"] = {
                    name: {**run, **found} for name, run in values.get("distill", {}).items()
                }
            else:
                values[key] = {**values.get(key, {}), **found}
    return replace(case, recipe=Recipe.from_mapping(values, where="the sizes of init"))


def _loss_rows(case: Case, limit: float) -> int:
    """A power of two from 64 to 1024 whose logits take at most a twentieth of the memory."""
    row = HEAD_BYTES * case.models[PIVOT].shape.vocabulary
    return max([64, *(n for n in (128, 256, 512, 1024) if n * row <= limit / 20)])


def _step_examples(examples: int) -> int:
    """A power of two up to STEP_EXAMPLES with which EPOCHS have GOOD_STEPS, or 1."""
    together = STEP_EXAMPLES
    while together > 1 and examples * EPOCHS < together * GOOD_STEPS:
        together //= 2
    return together


def _epochs(examples: int, together: int) -> int:
    """EPOCHS, or as many as FEWEST_STEPS need, MOST_EPOCHS at most."""
    needed = math.ceil(FEWEST_STEPS / max(1, math.ceil(examples / together)))
    return min(MOST_EPOCHS, max(EPOCHS, needed))


def _learning_rate(case: Case, distill: dict[str, Any]) -> float:
    """By the pivot's size, and by what is trained of it."""
    parameters = case.models[PIVOT].parameters
    if parameters < FEW_PARAMETERS:
        return 1e-3
    if "lora" in distill:
        return 1e-4
    return 5e-5 if parameters < SMALL_PARAMETERS else 1e-5
