"""What `dtype: auto` stands for on a CPU: bfloat16 where that is faster, float32 elsewhere.

A run decides it once, before its first stage, and writes the answer into its recipe (`settled`): so
it stands in resolved.json and in the fingerprints of what it decides. The logits are float32 in any
case (lm_head.with_float32_logits), and so are the weights of a model that is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from infifusion.errors import ArtifactError, CheckpointError
from infifusion.process.processor import (
    LEAST_WIDTH,
    bfloat16_pays,
    bfloat16_seems_to_pay,
    gain_of_bfloat16,
    kept_gain,
)
from infifusion.process.runtime import log, pick_device, rank
from infifusion.recipe import Model, Recipe
from infifusion.store.artifacts import MANIFEST, STARTED, cache_folder
from infifusion.store.folders import PIVOT
from infifusion.store.records import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

USUAL_GAIN = 2.2
"""Of a processor that nobody measured: an AMD EPYC with avx512_bf16 (docs/performance.md)."""
BEGUN = ("respond", "teach", "evaluate", "distill")
"""Stages whose fingerprint names the dtype of a model."""
SOURCE = "source__"  # of the folders of evaluate (store.folders)
CHOICES = {"bf16", "fp16", "use_cpu"}
"""Keys of `training` by which a recipe decides the arithmetic itself."""


def with_dtype(model: Model) -> Model:
    """The model with what `auto` stands for on this machine. On an accelerator as it is."""
    if not (_gains(model) and bfloat16_pays(cache_folder())):
        return model
    _say(_in_words([model.model]))
    return _in_bfloat16(model)


def settled(recipe: Recipe, *roots: Path) -> Recipe:
    """The recipe with what `dtype: auto` stands for on this machine, and `training: bf16` where
    training gains from it; it says so in the log.

    roots: folders of the run, or of all runs of a sweep. A run that has begun goes on as it began,
    in float32 or in bfloat16, whatever the processor: one run has one arithmetic.
    """
    gains = _gaining(recipe)
    begun = _begun(gains, roots)
    if "auto" in begun:
        if bfloat16_pays(cache_folder()):
            _say("arithmetic: this run began in float32, and goes on in it")
        return recipe
    if "bfloat16" in begun:
        _say("arithmetic: this run began in bfloat16, and goes on in it")
    elif gains and bfloat16_pays(cache_folder()):
        _say(_in_words(gains))
    else:
        return recipe
    train = PIVOT in gains and str(_config(recipe.pivot).dtype) == "torch.bfloat16"
    return in_bfloat16(recipe, gains, train=train)


def in_bfloat16(recipe: Recipe, names: Iterable[str], *, train: bool) -> Recipe:
    """The recipe with these models in bfloat16, and if `train` its training runs, where they are
    silent about it."""
    names = set(names)
    sources = {
        n: _in_bfloat16(_tuned_in_bfloat16(recipe, m)) if n in names else m
        for n, m in recipe.sources.items()
    }
    pivot = _in_bfloat16(recipe.pivot) if PIVOT in names else recipe.pivot
    runs = recipe.distill
    if train and PIVOT in names:
        runs = {
            name: one
            if one.parallel == "deepspeed" or {*recipe.training, *one.training} & CHOICES
            else one.model_copy(update={"training": {"bf16": True, **one.training}})
            for name, one in runs.items()
        }
    return recipe.model_copy(update={"sources": sources, "pivot": pivot, "distill": runs})


def _tuned_in_bfloat16(recipe: Recipe, model: Model) -> Model:
    """A source whose tuning multiplies in bfloat16, where it is silent about it."""
    tune = model.tune
    if tune is None or {*recipe.training, *tune.training} & CHOICES:
        return model
    tune = tune.model_copy(update={"training": {"bf16": True, **tune.training}})
    return model.model_copy(update={"tune": tune})


def seems_to_gain(model: Model, width: int) -> bool:
    """Whether a model of so many hidden units would run in bfloat16 on this CPU; without torch."""
    silent = model.dtype == "auto" and model.quantization is None
    return silent and width >= LEAST_WIDTH and bfloat16_seems_to_pay(cache_folder())


def expected_gain() -> float:
    """How many times as fast products are in bfloat16: as measured here, or as is usual."""
    return kept_gain(cache_folder()) or USUAL_GAIN


def auto_in_words(recipe: Recipe) -> str | None:
    """What `settled` would decide for a new run, for `check`; None where all stays float32."""
    gains = _gaining(recipe)
    return _in_words(gains) if gains and bfloat16_pays(cache_folder()) else None


def _gaining(recipe: Recipe) -> dict[str, Model]:
    """The models of a recipe that would run in bfloat16 on a CPU that is good at it. Of a source in
    an engine its server decides."""
    here = {name: one for name, one in recipe.sources.items() if one.engine is None}
    models = {PIVOT: recipe.pivot, **here}
    return {name: model for name, model in models.items() if _gains(model)}


def _in_words(gains: Iterable[str]) -> str:
    gain = gain_of_bfloat16(cache_folder())
    return (
        f"arithmetic: {', '.join(gains)} in bfloat16 with float32 logits (products are {gain:.1f} "
        "times as fast here; dtype: float32 of a model, training.bf16: false of a run undo it)"
    )


@cache
def _say(line: str) -> None:
    """Once: the runs of a sweep say the same."""
    if rank() == 0:
        log.info("%s", line)


def _gains(model: Model) -> bool:
    """Whether a model that says nothing of it would run in bfloat16 on a CPU that is good at it."""
    if model.dtype != "auto" or model.quantization is not None or pick_device() != "cpu":
        return False
    try:
        width = getattr(_config(model), "hidden_size", None)
    except CheckpointError:  # said where the model is loaded
        return False
    return isinstance(width, int) and width >= LEAST_WIDTH


def _config(model: Model) -> PreTrainedConfig:
    from infifusion.teacher.load import text_config_of  # torch, which a plan does without

    return text_config_of(model)


def _in_bfloat16(model: Model) -> Model:
    return model.model_copy(update={"dtype": "bfloat16"})


def _begun(gains: Mapping[str, Model], roots: Sequence[Path]) -> set[str]:
    """The dtypes under which stages of these models have begun in run folders."""
    return {
        dtype
        for root in roots
        for stage in BEGUN
        for folder in (root / stage).glob("*")
        if _model_of(stage, folder.name) in gains and (dtype := _dtype_of(folder))
    }


def _model_of(stage: str, name: str) -> str:
    """The model of the recipe whose dtype the fingerprint of stage/name holds."""
    if stage == "evaluate":
        return name.removeprefix(SOURCE) if name.startswith(SOURCE) else PIVOT
    return PIVOT if stage == "distill" else name


def _dtype_of(folder: Path) -> str | None:
    """The dtype in the fingerprint of a stage; None where there is none, or none that can be read:
    the stage itself says what is wrong with it."""
    for name in (MANIFEST, STARTED):
        with contextlib.suppress(ArtifactError, OSError):
            fingerprint = read_json(folder / name).get("fingerprint", {})
            model = fingerprint.get("model") or fingerprint.get("pivot") or {}
            return model.get("dtype")
    return None
