"""Which weights get low-rank adapters: as the recipe says, on mixtures of experts, too.

transformers 5 keeps a layer's experts in two stacked tensors, and the router in a module of its
own. For some of these architectures PEFT 0.21 takes `all-linear` for the checkpoints of before: it
adapts the router, and gives the experts' first tensor twice the rank; for others it leaves the
experts out. So every module and parameter is named to it here, and what it made is compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from infifusion.errors import RecipeError
from infifusion.recipe import Lora, Model

ALL_LINEAR = "all-linear"
ROUTERS = ("gate", "router", "shared_expert_gate")
"""What transformers calls the layer that chooses experts."""
FUSED = {"gate_up_proj": ({"gate_proj", "up_proj"}, {"w1", "w3"}), "down_proj": ({"w2"},)}
"""Stacked tensors of experts, and the names of the matrices that were put together for them."""
HELP = (
    "Set lora.target_modules to all-linear, or to names of the model's layers, such as "
    "[q_proj, v_proj]."
)


@dataclass(frozen=True)
class Targets:
    """Full names of linear modules, and of parameters that are matrices of another module."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]


def with_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """The model frozen, with adapters that train. Raises RecipeError with peft's own words, or
    where it adapts other weights, or at another rank, than the recipe asks for."""
    targets = targets_of(model, lora)
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  (peft scales by any number)
        lora_dropout=lora.dropout,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=lora.init_lora_weights,
        rank_pattern=dict(lora.rank_pattern),
        modules_to_save=_whole(model, lora) or None,  # by full names: peft asks for an ending alone
    )
    try:
        adapted = cast(PeftModel, get_peft_model(model, settings))
    except ValueError as error:
        raise RecipeError(f"lora: {str(error).rstrip('.')}. {HELP}") from error
    _require_as_asked(adapted, targets, lora)
    return adapted


def rank_of(name: str, lora: Lora) -> int:
    """The rank of a layer's adapter: that of the first pattern that its name, or the end of it,
    fits, as peft has it."""
    fits = (rank for key, rank in lora.rank_pattern.items() if _fits(name, key))
    return next(fits, lora.r)


def _fits(name: str, pattern: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    except re.error as error:
        raise RecipeError(f"lora.rank_pattern: {pattern!r} is no pattern: {error}.") from None


def _named(name: str, ends: Sequence[str]) -> bool:
    return any(_ends(name, end) for end in ends)


def _whole(model: PreTrainedModel, lora: Lora) -> list[str]:
    """Full names of the modules that are trained whole."""
    names = [name for name, _ in model.named_modules() if _named(name, lora.modules_to_save)]
    return [n for n in names if not any(n.startswith(f"{other}.") for other in names)]


def _require_names(model: PreTrainedModel, targets: Targets, lora: Lora) -> None:
    """RecipeError for a rank of no adapted layer, and for modules to save that there are not, that
    get adapters, or that share their tensor with another one."""
    adapted = [*targets.modules, *targets.parameters]
    for key in lora.rank_pattern:
        if not any(_fits(name, key) for name in adapted):
            raise RecipeError(f"lora.rank_pattern: no adapted layer is called {key!r}. {HELP}")
    modules = dict(model.named_modules())
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for asked in lora.modules_to_save:
        found = [name for name in modules if _ends(name, asked)]
        if not found:
            raise RecipeError(f"lora.modules_to_save: the model has no module {asked!r}.")
        inside = (f"{one}." for one in found)
        if any(f"{name}.".startswith(start) for start in inside for name in adapted):
            raise RecipeError(
                f"lora.modules_to_save: {asked} is trained whole, so it can have no adapters. Take "
                "it out of modules_to_save or of target_modules."
            )
        tied = model.config.get_text_config().tie_word_embeddings
        if tied and any(modules[name] is end for name in found for end in ends):
            raise RecipeError(
                f"lora.modules_to_save: {asked} shares its tensor: embedding and head of this "
                "model are one. Leave it out, or train all weights (without lora)."
            )


def targets_of(model: PreTrainedModel, lora: Lora) -> Targets:
    """What the recipe names, checked. all-linear: every linear layer but the head and the routers,
    and the experts. Raises RecipeError for a name that the model does not have."""
    head = model.get_output_embeddings()
    linear: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    loose = _loose_matrices(model, linear)
    asked = lora.target_modules
    if isinstance(asked, str) and asked.lower() == ALL_LINEAR:
        chosen = {
            name: module
            for name, module in linear.items()
            if module is not head and not _is_router(model, name)
        }
        chosen = {n: m for n, m in chosen.items() if not _inside(n, lora.modules_to_save)}
        experts = [name for name, matrix in loose.items() if matrix.dim() == 3]
        targets = Targets(tuple(chosen), tuple(experts))
        _require_names(model, targets, lora)
        return targets
    names = [asked] if isinstance(asked, str) else list(asked)
    modules, parameters = [], []
    for name in names:
        # A text in place of a list is a pattern, as peft has it.
        found = [one for one in linear if _ends(one, name) or _matches(one, asked)]
        also = [one for one in loose if _stands_for(one, name, names)]
        if not found and not also:
            raise RecipeError(f"lora: no layer of the model is called {name!r}. {HELP}")
        modules += found
        parameters += also
    targets = Targets(tuple(dict.fromkeys(modules)), tuple(dict.fromkeys(parameters)))
    _require_names(model, targets, lora)
    return targets


def _inside(name: str, asked: Sequence[str]) -> bool:
    """Whether a module is one of those asked for, or lies in one."""
    parts = name.split(".")
    return any(_named(".".join(parts[:end]), asked) for end in range(1, len(parts) + 1))


def empty_model(model: Model) -> PreTrainedModel:
    """The model without weights."""
    settings = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = AutoConfig.from_pretrained(model.model, **settings)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)


def adapter_parameters(model: Model, lora: Lora) -> tuple[int, int]:
    """(parameters that the adapters train, parameters of the model), without loading weights.

    Raises RecipeError where a name is not one of the model's layers.
    """
    empty = empty_model(model)
    targets = targets_of(empty, lora)
    weights: dict[str, Any] = {n: empty.get_submodule(n).weight for n in targets.modules}
    weights |= {name: empty.get_parameter(name) for name in targets.parameters}
    trained = sum(
        rank_of(name, lora) * (len(one) if one.dim() == 3 else 1) * (one.shape[-1] + one.shape[-2])
        for name, one in weights.items()
    )
    if lora.use_dora:  # a length for every row
        linear: dict[str, Any] = {name: empty.get_submodule(name) for name in targets.modules}
        trained += sum(w.shape[isinstance(linear[n], Conv1D)] for n, w in weights.items())
    whole = [empty.get_submodule(name) for name in _whole(empty, lora)]
    trained += sum(p.numel() for module in whole for p in module.parameters())
    return trained, sum(parameter.numel() for parameter in empty.parameters())


def _loose_matrices(
    model: PreTrainedModel, linear: dict[str, nn.Module]
) -> dict[str, torch.Tensor]:
    """Parameters with two or three axes that belong to no linear layer and no embedding."""
    other = {name for name, m in model.named_modules() if isinstance(m, nn.Embedding | nn.Conv1d)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() in (2, 3) and name.rpartition(".")[0] not in linear.keys() | other
    }


def _is_router(model: PreTrainedModel, name: str) -> bool:
    """Whether a linear layer chooses experts, which lie beside it."""
    parent, _, last = name.rpartition(".")
    return last in ROUTERS and hasattr(model.get_submodule(parent), "experts")


def _ends(name: str, asked: str) -> bool:
    return name == asked or name.endswith(f".{asked}")


def _matches(name: str, pattern: str | list[str]) -> bool:
    try:
        return isinstance(pattern, str) and re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise RecipeError(f"lora: {pattern!r} is no name and no pattern: {error}. {HELP}") from None


def _stands_for(parameter: str, asked: str, names: list[str]) -> bool:
    """Whether a name of the recipe means a parameter: its own name, its module's (a router has one
    matrix), or that of a matrix that was put into it."""
    if _ends(parameter, asked) or _ends(parameter.removesuffix(".weight"), asked):
        return True
    for parts in FUSED.get(parameter.rpartition(".")[2], ()):
        if asked in parts:
            if missing := sorted(parts - set(names)):
                raise RecipeError(
                    f"lora: {asked} is one tensor with {', '.join(missing)} in this model's "
                    f"experts ({parameter}). Name both, or neither."
                )
            return True
    return False


def _ranks(name: str, module: LoraLayer, lora: Lora) -> set[int]:
    """The ranks that an adapter may have; of stacked experts peft wraps one layer in another."""
    if type(module).__name__ == "ParamWrapper":
        return {lora.r, *lora.rank_pattern.values()}
    return {rank_of(name, lora)}


def _require_as_asked(adapted: PeftModel, targets: Targets, lora: Lora) -> None:
    ranks = {
        (name, rank)
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
        for rank in module.r.values()
        if rank not in _ranks(name, module, lora)
    }
    layers = sum(isinstance(module, LoraLayer) for module in adapted.modules())
    wanted = len(targets.modules) + len(targets.parameters)
    if ranks or layers != wanted:
        odd = ", ".join(f"{name} at rank {rank}" for name, rank in sorted(ranks)[:3])
        raise RecipeError(
            f"lora: peft adapts {layers} weights of this model at rank {lora.r}"
            f"{f' ({odd})' if odd else ''}, where the recipe asks for {wanted}. Name layers that "
            "lie outside the experts under lora.target_modules, such as [q_proj, v_proj]."
        )
