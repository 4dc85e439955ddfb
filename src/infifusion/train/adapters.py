"""Which weights get low-rank adapters: as the recipe says, on mixtures of experts, too.

transformers 5 keeps a layer's experts in two stacked tensors, and the router in a module of its
own. For some of these architectures PEFT 0.21 takes `all-linear` for the checkpoints of before: it
adapts the router, and gives the experts' first tensor twice the rank; for others it leaves the
experts out. So every module and parameter is named to it here, and what it made is compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

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
    )
    try:
        adapted = cast(PeftModel, get_peft_model(model, settings))
    except ValueError as error:
        raise RecipeError(f"lora: {str(error).rstrip('.')}. {HELP}") from error
    _require_as_asked(adapted, targets, lora)
    return adapted


def targets_of(model: PreTrainedModel, lora: Lora) -> Targets:
    """What the recipe names. all-linear: every linear layer but the head and the routers, and the
    experts. Raises RecipeError for a name that the model does not have."""
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
        experts = [name for name, matrix in loose.items() if matrix.dim() == 3]
        return Targets(tuple(chosen), tuple(experts))
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
    return Targets(tuple(dict.fromkeys(modules)), tuple(dict.fromkeys(parameters)))


def adapter_parameters(model: Model, lora: Lora) -> tuple[int, int]:
    """(parameters that the adapters train, parameters of the model), without loading weights.

    Raises RecipeError where a name is not one of the model's layers.
    """
    settings = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = AutoConfig.from_pretrained(model.model, **settings)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    targets = targets_of(empty, lora)
    weights = [empty.get_submodule(name).weight for name in targets.modules]
    weights += [empty.get_parameter(name) for name in targets.parameters]
    trained = sum(
        lora.r * (len(one) if one.dim() == 3 else 1) * (one.shape[-1] + one.shape[-2])
        for one in weights
    )
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


def _require_as_asked(adapted: PeftModel, targets: Targets, lora: Lora) -> None:
    ranks = {
        (name, rank)
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
        for rank in module.r.values()
        if rank != lora.r
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
