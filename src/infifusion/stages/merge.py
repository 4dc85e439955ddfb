"""merge: distilled pivots into one checkpoint, as a recipe asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.data.store import load_examples, load_rendered
from infifusion.errors import RecipeError
from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.engine.checks import checked
from infifusion.merge.engine.diff import deltas
from infifusion.merge.engine.methods import method_and_params
from infifusion.merge.engine.models import find_model, open_model
from infifusion.merge.engine.plan import plan_models
from infifusion.merge.engine.weights import run_plan
from infifusion.merge.methods import METHODS
from infifusion.process.runtime import log
from infifusion.recipe import MergeRun, Recipe, as_json
from infifusion.store.durable import files_in, temporary_folder
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.identity import model_identity, stage_identity, stops_of
from infifusion.store.records import write_json
from infifusion.store.stage import Finished, Stage, run_stage
from infifusion.teacher.bits import bits_per_byte_by_domain

# tau0 that `validate` tries.
TAU0_CANDIDATES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0)


def merge(recipe: Recipe, folder: RunFolder, run: MergeRun) -> None:
    """Write merge/<name>/model, merge_details.json and deltas.json."""
    reads = [folder.distill(name) for name in run.models]
    if run.params.get("tau0") == "validate":
        reads.append(folder.prepare)
    stage = Stage(
        title=f"merge {run.name}",
        folder=folder.merge(run.name),
        fingerprint={
            "merge": as_json(run),
            "pivot": model_identity(recipe.pivot),
            "models": {name: stage_identity(folder.distill(name)) for name in run.models},
            "seed": recipe.seed,
        },
        reads=reads,
        work=partial(_work, recipe, folder, run),
        first_process_only=True,
    )
    run_stage(stage, folder)


def _work(recipe: Recipe, folder: RunFolder, run: MergeRun) -> Finished:
    out = folder.merge(run.name)
    base = find_model(recipe.pivot.model, Path())
    models = {name: folder.distill(name) / "model" for name in run.models}
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
    _use_what_was_taught(recipe, models, out / "model")
    if tried:
        details["tau0_validation"] = tried
    write_json(out / "merge_details.json", details)
    write_json(out / "deltas.json", _deltas(models, base))
    return Finished(
        files=[*files_in(out / "model"), out / "merge_details.json", out / "deltas.json"],
        counts={"tensors": len(details["tensors"]), "params": params},
        said=f"{len(details['tensors'])} tensors by {run.method}",
    )


def check_merge(run: MergeRun) -> None:
    """RecipeError when the method or its parameters do not fit, or the number of models. For that
    one of our methods merges a tensor of four weights: before the training, not after it."""
    values = {key: value for key, value in run.params.items() if value != "validate"}
    if run.params.get("tau0") == "validate" and run.method != "rsaf":
        raise RecipeError(f"merge.{run.name}.params.tau0: validate is RSAF's.")
    method, params = method_and_params(run.method, values, where=f"merge.{run.name}")
    if run.method not in METHODS:
        return
    base, *models = (
        Raw(np.arange(n, n + 4, dtype=np.float32), "F32") for n in range(1 + len(run.models))
    )
    try:
        method.function(Blocks(None if method.base == "unused" else base, models, (2, 2)), params)
    except ValueError as error:
        raise RecipeError(f"merge.{run.name}: {error}") from error


def merge_checkpoints(
    models: Mapping[str, Path],
    *,
    base: Path,
    method: str,
    params: dict[str, Any],
    out: Path,
    dtype: str | None,
    seed: int,
) -> dict[str, Any]:
    """Merge model folders into the new folder `out`; returns what merge_details.json holds."""
    opened = {
        name: replace(open_model(str(path), Path()), name=name) for name, path in models.items()
    }
    plan = plan_models(
        opened,
        open_model(str(base), Path()),
        method=method,
        params=params,
        dtype=dtype,
        seed=seed,
    )
    return run_plan(checked(plan), out)


def _deltas(models: Mapping[str, Path], base: Path) -> dict[str, Any]:
    """What deltas.json holds: how the merged models differ from the base and from one another."""
    opened = [open_model(str(path), Path()) for path in models.values()]
    return {"models": list(models), "tensors": deltas(open_model(str(base), Path()), opened)}


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


def _use_what_was_taught(recipe: Recipe, models: Mapping[str, Path], out: Path) -> None:
    """The distilled pivots carry the tokenizer and chat template that the recipe names."""
    first = next(iter(models.values()))
    pivot = recipe.pivot
    if pivot.tokenizer or pivot.chat_template or pivot.chat_template_kwargs:
        for pattern in ("tokenizer*", "*.jinja", "special_tokens_map.json"):
            for path in first.glob(pattern):
                shutil.copyfile(path, out / path.name)
    # Training may have taught them another end of turn than the pivot's.
    name = "generation_config.json"
    if (first / name).is_file() and stops_of(first) != stops_of(out):
        shutil.copyfile(first / name, out / name)
