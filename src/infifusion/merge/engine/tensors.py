"""The tensors of models that are merged: which of them belong together, and whether they fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.architecture import Architecture
from infifusion.merge.checkpoints.dtypes import FLOATS, STORED
from infifusion.merge.checkpoints.writer import Spec
from infifusion.merge.engine.model import COMPUTED, OPTIONAL, TIED_HEAD, Model
from infifusion.merge.engine.vocabulary import Vocabulary
from infifusion.strict import Strict

Part = tuple[Model, str]  # a model and one of its tensors


@dataclass(frozen=True)
class Planned:
    """One tensor of the result."""

    spec: Spec
    base: Part | None
    models: list[Part]
    params: Strict
    by_token: bool = False
    """Whether its rows are tokens that the vocabulary moves."""
    kept: bool = False
    """Whether only one model has it, and it is copied from that one."""

    @property
    def parts(self) -> list[Part]:
        """Everything that is read, the base first."""
        return [*([self.base] if self.base else []), *self.models]


@cache
def by_layer(model: Model) -> dict[int, frozenset[str]]:
    """Layer -> what stands after its number in the names of its tensors."""
    found: dict[int, set[str]] = {}
    for name in model.checkpoint.names:
        if place := model.layer_of(name):
            found.setdefault(place[0], set()).add(place[1])
    return {layer: frozenset(names) for layer, names in found.items()}


@dataclass(frozen=True)
class Names:
    """The tensors of a merge. merged: those that all models have; kept: what is optional and not
    in all of them, with the model that it is copied from."""

    merged: list[str]
    kept: dict[str, Model]

    def notes(self) -> list[str]:
        """What is kept, for the user."""
        by_model: dict[str, list[str]] = {}
        for name, model in sorted(self.kept.items()):
            by_model.setdefault(model.name, []).append(name)
        return [
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} stand in some of "
            f"the models only and are copied from {model}."
            for model, names in by_model.items()
        ]


def common_names(models: list[Model], donor: Model, *, outside: bool = False) -> Names:
    """The names to merge, or those outside the layers alone. CheckpointError when the models do not
    fit together."""

    def names_of(model: Model) -> set[str]:
        names = set(model.checkpoint.names)
        return {n for n in names if not (outside and model.layer_of(n))}

    everyone = list({model.key: model for model in [donor, *models]}.values())
    optional = {name for model in everyone for name in model.checkpoint if COMPUTED.search(name)}
    drop = {name for name in optional if any(name not in model.checkpoint for model in everyone)}
    names = names_of(donor)
    if donor.tied and _head_is_needed(everyone):
        names.add(TIED_HEAD)
    elif donor.tied:
        drop.add(TIED_HEAD)
    names -= drop
    kept: dict[str, Model] = {}
    for model in everyone:
        own = names_of(model) - drop
        extra = own - names - kept.keys()
        missing = {n for n in names - own if model.source_of(n) not in model.checkpoint}
        kept |= {name: model for name in extra if is_optional(model, name)}
        kept |= {name: donor for name in missing if is_optional(donor, name)}
        extra, missing = extra - kept.keys(), missing - kept.keys()
        if extra or missing:
            odd = sorted(extra or missing)[0]
            if missing == {TIED_HEAD} and not extra:
                raise CheckpointError(
                    f"{model.folder} ({model.name}) lacks {TIED_HEAD}, which {donor.folder} "
                    "has: it was saved without its head (AutoModel). Save it with "
                    "AutoModelForCausalLM; or write tie_word_embeddings: true into config.json, "
                    "if its embedding is its head."
                )
            raise CheckpointError(
                f"{model.folder} ({model.name}) {'has' if extra else 'lacks'} the tensor {odd}, "
                f"which {donor.folder} {'lacks' if extra else 'has'}: {len(extra | missing)} names "
                f"differ. Only models of one architecture can be merged: {_way_out(donor, model)}"
            )
    return Names(sorted(names - kept.keys()), kept)


def _way_out(donor: Model, model: Model) -> str:
    if ("text_config" in donor.config) != ("text_config" in model.config):
        return (
            "a language model and the one inside of another are merged by modules: "
            "{text_decoder: {models: [...]}}."
        )
    return "leave this model out, or distil it into the pivot (infifusion run)."


def is_optional(model: Model, name: str) -> bool:
    """Whether the model would load the same without this tensor: it predicts further tokens or
    values, or transformers makes nothing of it."""
    place = model.layer_of(name)
    if OPTIONAL.search(name) or (place is not None and place[0] >= model.layers):
        return True
    known = model.architecture
    return isinstance(known, Architecture) and known.own_name(name)[0] not in known.tensors


def plan_kept(names: Names, dtype: str | None, params: Strict) -> dict[str, Planned]:
    """The tensors that are copied from the one model that has them."""
    planned = {}
    for name, model in sorted(names.kept.items()):
        stored = model.checkpoint.dtype(name)
        spec = Spec(dtype if dtype and stored in FLOATS else stored, model.shape(name))
        planned[name] = Planned(spec, None, [(model, name)], params, kept=True)
    return planned


def _head_is_needed(models: list[Model]) -> bool:
    """Whether a model of the merge has a head that is not its embedding. For the models without a
    head their embedding stands; CheckpointError where one of them has none either."""
    own = [model for model in models if model.has_own_head]
    lacking = [m for m in models if own and m.source_of(TIED_HEAD) not in m.checkpoint]
    if lacking:
        raise CheckpointError(
            f"The tensor {TIED_HEAD} stands in {_folders(own)}, and it is not the input embedding "
            f"there; {_folders(lacking)} has neither this tensor nor an embedding that stands for "
            "it (tie_word_embeddings: true and a tensor that ends in embed_tokens.weight or "
            "wte.weight). Save that model again with save_pretrained, or leave it out."
        )
    return bool(own)


def _folders(models: list[Model]) -> str:
    return ", ".join(f"{model.folder} ({model.name})" for model in models)


def plan_tensor(
    base: Part | None,
    models: list[Part],
    dtype: str | None,
    params: Strict,
    vocabulary: Vocabulary | None,
) -> Planned:
    """One tensor, its shapes compared. The base, or else the first model, gives shape and dtype."""
    donor, donor_name = base or models[0]
    shape = donor.shape(donor_name)
    stored = donor.checkpoint.dtype(donor_name)
    by_token = vocabulary is not None and vocabulary.holds(donor, donor_name)
    _check_dtypes([*([base] if base else []), *models])
    for model, inner in [*([base] if base else []), *models]:
        found = model.shape(inner)
        if found != shape and not (by_token and found[1:] == shape[1:]):
            hint = (
                " Their vocabularies differ: tokenizer_source: union (or base) merges them."
                if found[1:] == shape[1:]
                else ""
            )
            raise CheckpointError(
                f"The tensor {inner} has shape {list(found)} in {model.folder} ({model.name}), but "
                f"{list(shape)} in {donor.folder}. Only models of one architecture and vocabulary "
                f"can be merged.{hint or ' Leave this model out, or distil it (infifusion run).'}"
            )
    if by_token and vocabulary is not None:
        shape = (vocabulary.rows, *shape[1:])
    spec = Spec(dtype if dtype and stored in FLOATS else stored, shape)
    return Planned(spec, base, models, params, by_token)


def _check_dtypes(parts: list[Part]) -> None:
    """All floats, or all of one dtype; CheckpointError otherwise."""
    kinds = {}
    for model, name in parts:
        dtype = model.checkpoint.dtype(name)
        if dtype not in STORED:
            raise CheckpointError(
                f"The tensor {name} in {model.folder} is stored as {dtype}, which cannot be merged."
                " Convert the model to bfloat16."
            )
        kinds["float" if dtype in FLOATS else dtype] = f"{dtype} in {model.folder}"
    if len(kinds) > 1:
        raise CheckpointError(
            f"The tensor {parts[0][1]} is {' but '.join(kinds.values())}. Floats and whole numbers "
            "cannot be merged: save the models in one dtype, such as bfloat16."
        )
