"""A small copy of a model: a layer of each kind, few tokens, narrow feed-forward parts, random
weights. What a setting or a machine cannot do shows on it within a second."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from infifusion.errors import CheckpointError
from infifusion.recipe import Model

TOKENS = 512
"""Entries of the copy's vocabulary."""
INNER = 256
"""Width of its feed-forward parts: a multiple of what quantisation takes at once."""
EXPERTS = 8
NARROWED = {
    "vocab_size": TOKENS,
    "vocab_size_per_layer_input": TOKENS,
    **dict.fromkeys(
        (
            "intermediate_size",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "ffn_dim",
            "n_inner",
        ),
        INNER,
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), EXPERTS),
    "num_experts_per_tok": EXPERTS,  # no more than there are
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    "num_kv_shared_layers": 0,
}
"""Largest values of a config's fields in the copy. Heads and hidden size stay: attention and
adapters depend on them."""


def small_copy(model: Model, folder: Path) -> Model:
    """Write the copy into the folder; the recipe's model, pointed at it.

    Raises CheckpointError where transformers cannot make one of the config.
    """
    settings = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        config = shrunk(AutoConfig.from_pretrained(model.model, **settings))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = AutoModelForCausalLM.from_config(
                config, trust_remote_code=model.trust_remote_code
            )
        made.to(config.dtype or torch.float32).save_pretrained(folder)
        for path in Path(model.model).glob("*.py"):  # a model's own code
            shutil.copy(path, folder)
    except Exception as error:  # transformers raises many kinds, all about the config
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"no small copy of {model.model} could be made to try it: {type(error).__name__}: "
            f"{reason}"
        ) from error
    return model.model_copy(update={"model": str(folder), "revision": None, "tokenizer": None})


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config of the same kind with a layer of each kind, and small where it costs."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # of the stored weights, which are not looked at
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    for part in parts:
        if isinstance(part, PreTrainedConfig):
            _shrink(part)
    return config


def _shrink(part: Any) -> None:
    layers = getattr(part, "num_hidden_layers", None)
    if isinstance(layers, int):
        kinds = getattr(part, "layer_types", None) or [""] * layers
        keep = sorted({kind: place for place, kind in reversed(list(enumerate(kinds)))}.values())
        for key, value in part.to_dict().items():
            if isinstance(value, list) and len(value) == layers:
                setattr(part, key, [value[place] for place in keep])
        part.num_hidden_layers = len(keep)
    for key, most in NARROWED.items():
        value = getattr(part, key, None)
        if isinstance(value, int) and value > most:
            setattr(part, key, most)
        elif isinstance(value, list) and all(isinstance(one, int) for one in value):
            setattr(part, key, [min(one, most) for one in value])
    for key, value in part.to_dict().items():
        if key.endswith(("_token_id", "_token_index")) and value is not None:
            setattr(part, key, None if key == "pad_token_id" else 0)
