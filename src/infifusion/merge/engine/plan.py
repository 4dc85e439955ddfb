"""From a merge file, or from models by name, to the plan of a merge, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from infifusion.errors import RecipeError
from infifusion.merge.checkpoints.dtypes import BY_NAME
from infifusion.merge.engine.checks import checked
from infifusion.merge.engine.file import IGNORE, MergeFile
from infifusion.merge.engine.methods import find_method, method_and_params
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.planner import MergePlan, Planner, as_slice
from infifusion.merge.engine.settings import Settings, check_parameters
from infifusion.merge.engine.tensors import common_names, plan_kept, plan_tensor
from infifusion.merge.engine.vocabulary import build_vocabulary


def plan_file(
    file: MergeFile,
    path: Path,
    *,
    pickle: bool = False,
    places: Mapping[str, Path] | None = None,
) -> MergePlan:
    """Plan a merge file. Raises RecipeError or CheckpointError for all that does not fit.
    places: folders of models that the file calls by a name of its own."""

    where = str(path)
    first: list[Model] = []

    @cache
    def model(name: str) -> Model:
        """Opened once; all in the layout of the first one, which gives the config."""
        found = open_model(
            name,
            path.parent,
            allow_pickle=pickle,
            dequantize=file.dequantize,
            places=places or {},
            like=first[0] if first else None,
        )
        first.append(found)
        return found

    method = find_method(file.merge_method, where=where)
    notes = check_parameters(file, method, where=where)
    base = model(file.base_model) if file.base_model else None
    slices = file.layer_slices() or [as_slice(file, method, model)]
    if method.base == "needed" and base is None and not all(s.base_model for s in slices):
        raise RecipeError(
            f"{path}: {file.merge_method} merges changes from a base. Give base_model, or --base."
        )
    donor = base or model(slices[0].sources[0].model)
    wanted = file.vocabulary()
    vocabulary = None
    if wanted:
        names = [source.model for one in slices for source in one.sources]
        everyone = list({model(name).key: model(name) for name in [*names, donor.name]}.values())
        vocabulary = build_vocabulary(wanted, everyone, donor, base, where=where)
    planner = Planner(Settings(file, method, where), model, donor, vocabulary)
    stacked = bool(file.layer_slices())
    tensors = dict(planner.stacked(slices) if stacked else planner.whole(slices[0]))
    used = [m for planned in tensors.values() for m, _ in planned.models]
    used = list({m.key: m for m in used}.values())
    if not used:
        raise RecipeError(f"{path}: there is no model besides the base. Add one to models.")
    return MergePlan(
        name=file.merge_method,
        method=method,
        donor=donor,
        base=None if method.base == "unused" else base,
        models=used,
        tensors=tensors,
        layers=planner.layers(slices) if stacked else [],
        seed=file.seed,
        vocabulary=vocabulary,
        chat_template=file.chat_template,
        notes=[*notes, *planner.notes],
    )


def checked_plan(
    file: MergeFile,
    path: Path,
    *,
    pickle: bool = False,
    places: Mapping[str, Path] | None = None,
) -> MergePlan:
    """The same, checked (`checks.checked`): for every merge that somebody is to use. The plan alone
    asks only that names and shapes fit one another, which is enough for arithmetic."""
    plan = plan_file(file, path, pickle=pickle, places=places)
    return checked(plan, tokens=file.tokenizer_source != IGNORE)


def plan_models(
    models: Mapping[str, Model],
    base: Model,
    *,
    method: str,
    params: dict[str, Any],
    dtype: str | None,
    seed: int,
) -> MergePlan:
    """Plan the merge of whole models with parameters that hold for every tensor."""
    record, checked = method_and_params(method, params, where="merge")
    unused = record.base == "unused"
    listed = list(models.values())
    if not listed:
        raise RecipeError(
            "merge: there is no model besides the base. Add one under models, or under slices."
        )
    stored = BY_NAME[dtype] if dtype else None
    tensors = {}
    names = common_names([base, *listed], base)
    for name in names.merged:
        parts = [(model, model.source_of(name)) for model in listed]
        origin = (base, base.source_of(name))
        # What no method of several models needs: the base gives shape and dtype all the same.
        planned = plan_tensor(origin, parts, stored, checked, None)
        tensors[name] = replace(planned, base=None) if unused else planned
    tensors |= plan_kept(names, stored, checked)
    return MergePlan(
        name=method,
        method=record,
        donor=base,
        base=None if unused else base,
        models=listed,
        tensors=tensors,
        layers=[],
        seed=seed,
        notes=names.notes(),
    )
