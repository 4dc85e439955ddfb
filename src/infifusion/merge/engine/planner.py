"""What a merge will do: every tensor of the result, what it is merged from and how, and how much
memory it needs.

Nothing but headers is read for it, so that it can be checked and printed before it starts. The one
exception is a head that is stored beside tied embeddings: it is compared with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.blocks.blocks import BLOCK
from infifusion.merge.checkpoints.dtypes import BY_NAME
from infifusion.merge.engine.file import MergeFile, MergeModel, Module, Slice, SliceSource
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.settings import Settings
from infifusion.merge.engine.tensors import (
    Names,
    Part,
    Planned,
    by_layer,
    common_names,
    plan_kept,
    plan_tensor,
)
from infifusion.merge.engine.vocabulary import Vocabulary
from infifusion.merge.engine.walker import usable_threads
from infifusion.merge.methods import Method
from infifusion.strict import Strict

# Tensors before the layers; all others outside them come after.
BEFORE = re.compile(r"embed|wte|wpe|position|(^|\.)emb|projector|vision|visual|audio")
AFTER = re.compile(r"embed_out|output_embed|lm_head")
# Anonymous memory of Python, NumPy and the compiled loops before the first tensor (measured).
STARTED = 150_000_000
# Histograms of a tensor's threads (two per model: a running total and one being filled).
HISTOGRAM = 2 * 8 * (1 << 16)


@dataclass(frozen=True)
class MergePlan:
    """A whole merge. name: that of the method; donor: the model whose config and tokenizer the
    result has."""

    name: str
    method: Method
    donor: Model
    base: Model | None
    models: list[Model]
    tensors: dict[str, Planned]
    layers: list[tuple[Model, int]]
    """Where layers are stacked: the model and layer whose config entries each layer has."""
    seed: int
    vocabulary: Vocabulary | None = None
    chat_template: str | None = None
    notes: list[str] = field(default_factory=list)
    config: dict[str, Any] | None = None
    """The config of the result, once it is worked out (`checks.checked`)."""

    @property
    def everyone(self) -> list[Model]:
        """Every model that is read, the donor first."""
        parts = [model for planned in self.tensors.values() for model, _ in planned.parts]
        return list({model.key: model for model in [self.donor, *parts]}.values())


def dtype_of(file: MergeFile) -> str | None:
    """The stored dtype that the file asks for; None where the base's stays."""
    name = file.out_dtype or file.dtype
    return BY_NAME[name] if name else None


def as_slice(
    file: MergeFile, module: Module, method: Method, model: Callable[[str], Model]
) -> Slice:
    """Whole models as one slice. The base joins in where it is not listed, as in mergekit, if the
    method has it so."""
    listed = list(module.models or [])
    joins = method.unlisted_base == "joins"
    if method.unlisted_base == "joins_with_weight":
        joins = "weight" in module.parameters or "weight" in file.parameters
    if file.base_model and joins:
        base = model(file.base_model)
        if base.key not in [model(m.model).key for m in listed]:
            listed.append(MergeModel(model=file.base_model))
    return Slice(
        sources=[
            SliceSource(model=m.model, parameters=m.parameters, layer_range=(0, 0)) for m in listed
        ]
    )


@dataclass(frozen=True)
class Planner:
    """Plans tensor by tensor. model: opens a model by its name in the file."""

    settings: Settings
    model: Callable[[str], Model]
    donor: Model
    vocabulary: Vocabulary | None
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The merge file, as errors name it."""
        return self.settings.where

    def whole(self, one: Slice) -> Iterator[tuple[str, Planned]]:
        """All tensors of whole models."""
        models = [self.model(source.model) for source in one.sources]
        last = max(self.donor.layers - 1, 1)
        names, params = common_names(models, self.donor), None
        for name in names.merged:
            place = self.donor.layer_of(name)
            # Outside the layers a gradient is at its start; a single layer is at its end.
            t = 0.0 if place is None else 1.0 if self.donor.layers == 1 else place[0] / last
            inner = [model.source_of(name) for model in models]
            planned = self._one(name, one, inner, t)
            params = planned.params
            yield name, planned
        yield from self._kept(names, params)

    def _kept(self, names: Names, params: Strict | None) -> Iterator[tuple[str, Planned]]:
        """What is copied from the one model that has it."""
        for name, model in names.kept.items():
            if self.vocabulary is not None and self.vocabulary.holds(model, name):
                raise CheckpointError(
                    f"{name} stands in {model.folder} ({model.name}) only and has a row for every "
                    "token of that model: it would not fit the new vocabulary. Save the model "
                    "without it."
                )
        if params is not None and names.kept:
            self.notes.extend(names.notes())
            yield from plan_kept(names, dtype_of(self.settings.file), params).items()

    def stacked(self, slices: list[Slice]) -> Iterator[tuple[str, Planned]]:
        """The tensors outside the layers, those before them from the first slice's models and those
        after from the last one's; then layer by layer."""
        stack = self.donor.stack
        models = [self.model(s.model) for one in (slices[0], slices[-1]) for s in one.sources]
        names, params = common_names(models, self.donor, outside=True), None
        for name in names.merged:
            one = slices[0 if BEFORE.search(name) and not AFTER.search(name) else -1]
            inner = [self.model(source.model).source_of(name) for source in one.sources]
            planned = self._one(name, one, inner, 0.0)
            params = planned.params
            yield name, planned
        yield from self._kept(names, params)
        number = 0
        for one in slices:
            length = self._length(one)
            for offset in range(length):
                t = offset / (length - 1) if length > 1 else 1.0
                for suffix in self._in_layer(one, offset):
                    inner = [
                        f"{self.model(s.model).stack}{s.layer_range[0] + offset}{suffix}"
                        for s in one.sources
                    ]
                    name = f"{stack}{number}{suffix}"
                    yield name, self._one(name, one, inner, t)
                number += 1

    def layers(self, slices: list[Slice]) -> list[tuple[Model, int]]:
        """For every layer of the result, where its entries in the config come from."""
        return [
            (self.model(one.sources[0].model), one.sources[0].layer_range[0] + offset)
            for one in slices
            for offset in range(self._length(one))
        ]

    def _length(self, one: Slice) -> int:
        lengths = {s.layer_range[1] - s.layer_range[0] for s in one.sources}
        for source in one.sources:
            first, last = source.layer_range
            if not 0 <= first <= last <= self.model(source.model).layers:
                raise RecipeError(
                    f"{self.where}: layer_range [{first}, {last}] of {source.model}, which has "
                    f"{self.model(source.model).layers} layers: give [first, one after the last]."
                )
        if len(lengths) != 1:
            raise RecipeError(
                f"{self.where}: the sources of one slice have {sorted(lengths)} layers; give them "
                "layer_ranges of one length."
            )
        return lengths.pop()

    def _in_layer(self, one: Slice, offset: int) -> list[str]:
        """What stands after the layer's number in its tensors, the same in all sources."""
        found: list[tuple[Model, int, frozenset[str]]] = []
        for source in one.sources:
            model, layer = self.model(source.model), source.layer_range[0] + offset
            found.append((model, layer, by_layer(model).get(layer, frozenset())))
        first = found[0]
        for other in found[1:]:
            if other[2] != first[2]:
                odd = sorted(other[2] ^ first[2])[0]
                raise CheckpointError(
                    f"Layer {other[1]} of {other[0].folder} and layer {first[1]} of "
                    f"{first[0].folder} do not have the same tensors: only one of them has "
                    f"{odd}. Only models of one architecture can be merged: leave one of "
                    "the two out."
                )
        return sorted(first[2])

    def _one(self, name: str, one: Slice, inner: list[str], t: float) -> Planned:
        """One tensor; `inner` names it in each source of the slice."""
        file = self.settings.file
        base_name = one.base_model or file.base_model
        wanted = self.model(base_name).key if base_name else None
        if self.settings.method.base == "unused":
            wanted = None
        base: Part | None = None
        models: list[Part] = []
        sources: list[SliceSource] = []
        for source, tensor in zip(one.sources, inner, strict=True):
            model = self.model(source.model)
            if wanted is not None and model.key == wanted:
                base = (model, tensor)
            else:
                models.append((model, tensor))
                sources.append(source)
        if base is None and wanted is not None:
            raise RecipeError(
                f"{self.where}: a slice does not have base_model {base_name} among its sources. "
                "Add it, with the layers that belong to it."
            )
        inputs = [tensor for _, tensor in models]
        params = self.settings.of_tensor(name, one, sources, inputs, t)
        return plan_tensor(base, models, dtype_of(file), params, self.vocabulary)


def memory_needed(plan: MergePlan, threads: int) -> int:
    """Bytes of anonymous memory, about."""
    return STARTED + threads * _memory_per_thread(plan)


def fit_threads(plan: MergePlan, *, threads: int | None, memory: int | None) -> int:
    """As many threads as asked for and as fit the memory. RecipeError where not even one fits."""
    wanted = threads or usable_threads()
    if memory is None:
        return wanted
    fits = (memory - STARTED) // max(_memory_per_thread(plan), 1)
    if fits < 1:
        raise RecipeError(
            f"--memory {memory / 1e6:.0f} MB is too little: this merge needs "
            f"{memory_needed(plan, 1) / 1e6:.0f} MB with one thread. Give at least that."
        )
    return min(wanted, int(fits))


def _memory_per_thread(plan: MergePlan) -> int:
    """Bytes that one thread works with at once."""
    most = 0
    for planned in plan.tensors.values():
        shape = planned.spec.shape
        row = shape[-1] if len(shape) > 1 else planned.spec.bytes
        block = max(BLOCK, row) if plan.method.by_rows else BLOCK
        models = len(planned.parts)
        most = max(most, 4 * block * (models + plan.method.working_arrays) + HISTOGRAM * models)
    # A tensor's own thread and one that works on its blocks.
    return 2 * most
