"""From a merge file, or from models by name, to the plan of a merge, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from infifusion.errors import RecipeError
from infifusion.merge.checkpoints.dtypes import BY_NAME
from infifusion.merge.engine.checks import checked
from infifusion.merge.engine.file import DEFAULT, IGNORE, MergeFile, Module, Slice
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.modules import Modules, require_parts, with_all
from infifusion.merge.engine.planner import MergePlan, Planner, as_slice, dtype_of
from infifusion.merge.engine.settings import (
    Settings,
    check_parameters,
    find_method,
    method_and_params,
)
from infifusion.merge.engine.tensors import (
    Names,
    Planned,
    common_names,
    plan_kept,
    plan_tensor,
)
from infifusion.merge.engine.vocabulary import Vocabulary, build_vocabulary
from infifusion.merge.methods import Method


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
    opened = partial(
        open_model,
        folder=path.parent,
        allow_pickle=pickle,
        dequantize=file.dequantize,
        places=places or {},
    )
    first: list[Model] = []

    @cache
    def model(name: str) -> Model:
        """Opened once; all in the layout of the first one, which gives the config."""
        found = opened(name, like=first[0] if first else None)
        first.append(found)
        return found

    method = find_method(file.merge_method, where=where)
    notes = check_parameters(file, method, where=where)
    modules = file.parts()
    several = list(modules) != [DEFAULT]
    if several:
        first.append(with_all(modules, map(opened, _named(file)), where=where))
    base = model(file.base_model) if file.base_model else None
    slices = {
        name: one.slices or [as_slice(file, one, method, model)] for name, one in modules.items()
    }
    listed = [one for some in slices.values() for one in some]
    if method.base == "needed" and base is None and not all(s.base_model for s in listed):
        raise RecipeError(
            f"{path}: {file.merge_method} merges changes from a base. Give base_model, or --base."
        )
    donor = first[0] if several else base or model(listed[0].sources[0].model)
    of_file = _File(file, where, method, model, base, donor, Modules(tuple(modules), donor.stack))
    vocabulary = of_file.vocabulary(slices)
    tensors: dict[str, Planned] = {}
    layers: list[tuple[Model, int]] = []
    for name, module in modules.items():
        planner = of_file.planner(name, module, slices[name], vocabulary)
        stacked = bool(module.slices)
        if stacked and layers:
            raise RecipeError(
                f"{where}: modules.{name} stacks layers, as another module does. A model has one "
                "stack: give slices to one module, such as text_decoder."
            )
        tensors |= planner.stacked(slices[name]) if stacked else planner.whole(slices[name][0])
        layers += planner.layers(slices[name]) if stacked else []
        notes += planner.notes
    used = [m for planned in tensors.values() for m, _ in planned.models]
    used = list({m.key: m for m in used}.values())
    if not used:
        raise RecipeError(f"{path}: there is no model besides the base. Add one to models.")
    tensors |= of_file.rest(tensors, notes)
    return MergePlan(
        name=file.merge_method,
        method=method,
        donor=donor,
        base=None if method.base == "unused" else base,
        models=used,
        tensors=tensors,
        layers=layers,
        seed=file.seed,
        vocabulary=vocabulary,
        chat_template=file.chat_template,
        notes=notes,
    )


@dataclass(frozen=True)
class _File:
    """A file whose models are open. donor: the model whose config the result has."""

    file: MergeFile
    where: str
    method: Method
    model: Callable[[str], Model]
    base: Model | None
    donor: Model
    modules: Modules

    @property
    def whole(self) -> bool:
        """Whether models are merged as a whole."""
        return self.modules.names == (DEFAULT,)

    def planner(
        self, name: str, module: Module, slices: list[Slice], vocabulary: Vocabulary | None
    ) -> Planner:
        """What plans one module."""
        settings = Settings(self.file, module, self.method, self.where)
        if self.whole:
            return Planner(settings, self.model, self.donor, vocabulary)
        part = cache(lambda called: self.modules.part(self.model(called), name))
        donor = self.modules.part(self.donor, name)
        parts = [part(source.model) for one in slices for source in one.sources]
        require_parts(name, parts, self.base, self.donor)
        if module.slices and donor.stack != self.donor.stack:
            raise RecipeError(
                f"{self.where}: modules.{name}: slices stack the layers of a language model, which "
                "this module does not hold. Give models."
            )
        return Planner(settings, part, donor, vocabulary)

    def vocabulary(self, slices: dict[str, list[Slice]]) -> Vocabulary | None:
        """The result's vocabulary, where the file asks for one of its own."""
        wanted = self.file.vocabulary()
        if wanted is None:
            return None
        embedding = self.donor.embedding or ""
        home = DEFAULT if self.whole else self.modules.of(embedding)
        if home is None:
            raise RecipeError(
                f"{self.where}: the vocabulary is made anew (tokenizer_source), but no module has "
                "the embedding of tokens. Add the module text_decoder."
            )
        names = [source.model for one in slices[home] for source in one.sources]
        found = [*map(self.model, names), *([self.base] if self.base else []), self.donor]
        everyone = list({one.key: one for one in found}.values())
        if not self.whole:
            everyone = [self.modules.part(one, home) for one in everyone]
        return build_vocabulary(wanted, everyone, self.donor, self.base, where=self.where)

    def rest(self, planned: dict[str, Planned], notes: list[str]) -> dict[str, Planned]:
        """The tensors of the donor that are in no module of the file, to be copied."""
        rest = [name for name in self.donor.checkpoint.names if self.modules.of(name) is None]
        if self.whole or not rest:
            return {}
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        notes.append(
            f"{rest[0]}{more} are in none of the modules {', '.join(self.modules.names)} and are "
            f"copied from {self.donor.name}."
        )
        kept = Names([], dict.fromkeys(rest, self.donor))
        params = next(iter(planned.values())).params
        return plan_kept(kept, dtype_of(self.file), params)


def _named(file: MergeFile) -> list[str]:
    """Every model of a file by its name, the base first."""
    modules = file.parts().values()
    found = [one.model for module in modules for one in module.models or []]
    found += [s.model for module in modules for one in module.slices or [] for s in one.sources]
    return list(dict.fromkeys([*([file.base_model] if file.base_model else []), *found]))


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
