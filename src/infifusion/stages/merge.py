"""merge: distilled pivots, and other models of the pivot's architecture, into one checkpoint, as a
recipe asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.data.store import load_examples, load_rendered
from infifusion.errors import InfiFusionError, RecipeError
from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.engine.checks import checked
from infifusion.merge.engine.diff import deltas
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.plan import plan_models
from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.settings import method_and_params
from infifusion.merge.engine.weights import run_plan
from infifusion.merge.methods import METHODS
from infifusion.process.runtime import log
from infifusion.process.wording import counted
from infifusion.recipe import MergeRun, Model, Recipe, as_json
from infifusion.store.durable import files_in, temporary_folder
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import model_identity, stage_identity, stops_of
from infifusion.store.records import write_json
from infifusion.store.stage import Finished, Stage, run_stage
from infifusion.teacher.bits import bits_per_byte_by_domain

ADAPTER = "adapter_config.json"
# tau0 that `validate` tries.
TAU0_CANDIDATES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0)


def merge(recipe: Recipe, folder: RunFolder, run: MergeRun) -> None:
    """Write merge/<name>/model, merge_details.json and deltas.json."""
    made = _made(recipe, folder)
    reads = [made[name] for name in run.models if name in made]
    if run.params.get("tau0") == "validate":
        reads.append(folder.prepare)
    stage = Stage(
        title=f"merge {run.name}",
        folder=folder.merge(run.name),
        fingerprint={
            "merge": as_json(run),
            "pivot": model_identity(recipe.pivot),
            "models": {
                name: stage_identity(made[name]) if name in made else _identity(recipe, name)
                for name in run.models
            },
            "seed": recipe.seed,
        },
        reads=reads,
        work=partial(_work, recipe, folder, run),
        first_process_only=True,
    )
    run_stage(stage, folder)


def _made(recipe: Recipe, folder: RunFolder) -> dict[str, Path]:
    """The stage folder of every model that the run trains or merges."""
    resolved = recipe.resolve()
    return {
        **{one.name: folder.distill(one.name) for one in resolved.runs},
        **{one.name: folder.merge(one.name) for one in resolved.merges},
    }


def _given(recipe: Recipe, name: str) -> Model:
    """The model of a merge that the run does not make: pivot, source, folder or hub model."""
    if name == PIVOT:
        return recipe.pivot
    source = recipe.sources.get(name.removeprefix("source:"))
    if name.startswith("source:") and source is not None:
        return source
    return Model(model=name)


def _identity(recipe: Recipe, name: str) -> dict[str, Any]:
    """What identifies such a model, and its adapter."""
    model = _given(recipe, name)
    base, plus, adapter = model.model.rpartition("+")
    if not plus or Path(model.model).is_dir():
        return model_identity(model)
    config = Path(adapter) / ADAPTER
    said = {ADAPTER: sha256_of(config)} if config.is_file() else {}
    return {
        "model": model_identity(model.model_copy(update={"model": base})),
        "adapter": model_identity(model.model_copy(update={"model": adapter})) | said,
    }


def _where(model: Model) -> str:
    """How a merge file would call a recipe's model."""
    here = Path(model.model).is_dir() or model.revision is None
    return model.model if here else f"{model.model}@{model.revision}"


def _work(recipe: Recipe, folder: RunFolder, run: MergeRun) -> Finished:
    out = folder.merge(run.name)
    base = _where(recipe.pivot)
    made = _made(recipe, folder)
    models = {
        name: str(made[name] / "model") if name in made else _where(_given(recipe, name))
        for name in run.models
    }
    taught = [made[name] / "model" for name in run.models if name in made]
    params, tried = dict(run.params), []

    def merge_with(params: dict[str, Any], place: Path) -> dict[str, Any]:
        return merge_checkpoints(
            models,
            base=base,
            method=run.method,
            params=params,
            out=place,
            dtype=run.dtype,
            seed=recipe.seed,
        )

    if params.get("tau0") == "validate":
        tried = choose_tau0(
            lambda tau0, place: merge_with({**params, "tau0": tau0}, place),
            lambda place: _validation_bits(recipe, folder, place),
            scratch=out / "tau0",
        )
        params["tau0"] = min(tried, key=lambda one: one["bits_per_byte"])["tau0"]
        log.info("merge %s: tau0 %.2f has the fewest bits per byte", run.name, params["tau0"])
    if (out / "model").exists():  # a merge that was stopped before its manifest
        shutil.rmtree(out / "model")
    details = merge_with(params, out / "model")
    if taught:
        _use_what_was_taught(recipe, taught[0], out / "model")
    if tried:
        details["tau0_validation"] = tried
    write_json(out / "merge_details.json", details)
    write_json(out / "deltas.json", _deltas(models, base))
    return Finished(
        files=[*files_in(out / "model"), out / "merge_details.json", out / "deltas.json"],
        counts={"tensors": len(details["tensors"]), "params": params},
        said=f"{counted(len(details['tensors']), 'tensor')} by {run.method}",
    )


def check_merge(recipe: Recipe, run: MergeRun) -> None:
    """RecipeError when the method or its parameters do not fit, or the number of models, or a model
    that lies here is not there or does not belong to the pivot. For that one of our methods merges
    a tensor of four weights: before the training, not after it."""
    values = {key: value for key, value in run.params.items() if value != "validate"}
    if run.params.get("tau0") == "validate" and run.method != "rsaf":
        raise RecipeError(f"merge.{run.name}.params.tau0: validate is RSAF's.")
    method, params = method_and_params(run.method, values, where=f"merge.{run.name}")
    _check_given(recipe, run, values)
    if run.method not in METHODS:
        return
    base, *models = (
        Raw(np.arange(n, n + 4, dtype=np.float32), "F32") for n in range(1 + len(run.models))
    )
    try:
        method.function(Blocks(None if method.base == "unused" else base, models, (2, 2)), params)
    except ValueError as error:
        raise RecipeError(f"merge.{run.name}: {error}") from error


def _check_given(recipe: Recipe, run: MergeRun, params: dict[str, Any]) -> None:
    resolved = recipe.resolve()
    made = {one.name for one in (*resolved.runs, *resolved.merges)}
    given = {n: _given(recipe, n).model for n in run.models if n not in made and n != PIVOT}
    local = {
        name: where
        for name, where in given.items()
        if Path(where).is_absolute() or where.startswith((".", "~")) or Path(where).is_dir()
    }
    if not local or not Path(recipe.pivot.model).is_dir():
        return  # what is on the hub is looked at when it is fetched
    try:
        checked(
            _planned(
                local,
                base=recipe.pivot.model,
                method=run.method,
                params=params,
                dtype=run.dtype,
                seed=recipe.seed,
            )
        )
    except InfiFusionError as error:
        raise RecipeError(f"merge.{run.name}: {error}") from error


def _planned(
    models: Mapping[str, str],
    *,
    base: str,
    method: str,
    params: dict[str, Any],
    dtype: str | None,
    seed: int,
) -> MergePlan:
    pivot = open_model(base, Path())
    opened = {
        name: replace(open_model(where, Path(), like=pivot), name=name)
        for name, where in models.items()
    }
    return plan_models(opened, pivot, method=method, params=params, dtype=dtype, seed=seed)


def merge_checkpoints(
    models: Mapping[str, str],
    *,
    base: str,
    method: str,
    params: dict[str, Any],
    out: Path,
    dtype: str | None,
    seed: int,
) -> dict[str, Any]:
    """Merge models, by folder or hub name, into the new folder `out`; returns what
    merge_details.json holds."""
    plan = _planned(models, base=base, method=method, params=params, dtype=dtype, seed=seed)
    return run_plan(checked(plan), out)


def _deltas(models: Mapping[str, str], base: str) -> dict[str, Any]:
    """What deltas.json holds: how the merged models differ from the base and from one another."""
    pivot = open_model(base, Path())
    opened = [open_model(where, Path(), like=pivot) for where in models.values()]
    return {"models": list(models), "tensors": deltas(pivot, opened)}


def choose_tau0(
    merge_at: Callable[[float, Path], object], score: Callable[[Path], float], *, scratch: Path
) -> list[dict[str, float]]:
    """Merge at every candidate, score each folder (fewer is better); the table of both.

    Each lies beside `scratch` while it is scored, on the disk that holds the run: the system's
    folder for temporary files is often in memory, or smaller than a model.
    """
    tried = []
    for tau0 in TAU0_CANDIDATES:
        with temporary_folder(scratch) as folder:
            merge_at(tau0, folder / "model")
            tried.append({"tau0": tau0, "bits_per_byte": score(folder / "model")})
    return tried


def _validation_bits(recipe: Recipe, folder: RunFolder, model: Path) -> float:
    """Mean over domains of the bits per byte on the validation share of the training data."""
    examples = load_examples(folder.examples("validation"))
    bits = bits_per_byte_by_domain(
        recipe.pivot.model_copy(update={"model": str(model), "revision": None}),
        load_rendered(folder.rendered(PIVOT, "validation")),
        [example.domain for example in examples],
        names=[example.id for example in examples],
        title="choose tau0",
    )
    return sum(bits.values()) / len(bits)


def _use_what_was_taught(recipe: Recipe, first: Path, out: Path) -> None:
    """The distilled pivots carry the tokenizer and chat template that the recipe names."""
    pivot = recipe.pivot
    if pivot.tokenizer or pivot.chat_template or pivot.chat_template_kwargs:
        for pattern in ("tokenizer*", "*.jinja", "special_tokens_map.json"):
            for path in first.glob(pattern):
                shutil.copyfile(path, out / path.name)
    # Training may have taught them another end of turn than the pivot's.
    name = "generation_config.json"
    if (first / name).is_file() and stops_of(first) != stops_of(out):
        shutil.copyfile(first / name, out / name)
