"""Loading the model of a teacher pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from infifusion.errors import CheckpointError, RunError
from infifusion.merge.checkpoints.reader import require_inside, require_one_model
from infifusion.process.finite import require_finite_weights
from infifusion.process.memory import ran_out
from infifusion.process.runtime import (
    keep_freed_memory,
    pick_device,
    pick_dtype,
    quantization_config,
)
from infifusion.recipe import Model
from infifusion.teacher.window import window_of


def load_model(model: Model) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained`, in evaluation mode, on the best device.

    Only safetensors are read, never pickles. Raises CheckpointError with the reason, in
    particular when weights are missing and would be left at random values; RecipeError where
    quantisation is asked for and bitsandbytes is missing; RunError where memory does not suffice.
    """
    device = pick_device()
    if device == "cpu":
        keep_freed_memory()
    folder = Path(model.model)
    local = folder.is_dir() or model.model.startswith((".", "/", "~"))
    if local and not (folder / "config.json").exists():
        found = "holds no config.json" if folder.is_dir() else "is no folder"
        raise CheckpointError(
            f"{folder} {found}: not a model folder. Give one that save_pretrained wrote."
        )
    require_inside(folder)
    placed = {"device_map": model.device_map}
    if model.quantization is not None:
        # bitsandbytes quantises on the device where the weights will stay.
        placed = {
            "device_map": model.device_map or {"": device},
            "quantization_config": quantization_config(model.quantization),
        }
    loaded = load_whole(
        model.model,
        revision=model.revision,
        dtype=pick_dtype(model.dtype, device),
        trust_remote_code=model.trust_remote_code,
        attn_implementation=model.attn_implementation,
        **placed,
    )
    if model.device_map is None and model.quantization is None:
        try:
            loaded.to(device)  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:
            raise (_too_large(model.model) if ran_out(error) else error) from error
    loaded.eval()
    require_finite_weights(loaded, model.model)
    return loaded


def load_whole(model: str, **settings: Any) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained` of safetensors. Raises CheckpointError with the
    reason, in particular when weights are missing or mis-shaped and would be left at random, and
    where the folder holds two models (`require_one_model`)."""
    require_one_model(Path(model))
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
            model,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **settings,
        )
    except Exception as error:  # transformers and safetensors raise many kinds, all about the input
        if ran_out(error):
            raise _too_large(model) from error
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"No model could be loaded from {model!r}: {type(error).__name__}: {reason}. "
            "Expected a folder with config.json and safetensors weights of a causal language "
            "model, or the name of one on the hub."
        ) from error
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{model}: the tensor {name} has shape {list(found)}, but its config.json asks for "
            f"{list(wanted)}. Is the config.json of another model?"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{model} lacks {len(missing)} of the weights its config.json asks for, such as "
            f"{missing[0]}; they would stay random. Is the config.json of another model? "
            "Copy or download the whole folder again."
        )
    return loaded


def without_weights(model: Model) -> PreTrainedModel:
    """A model by its config alone, on no device: for what asks a model for its limits and settings
    while an engine runs it."""
    config = AutoConfig.from_pretrained(
        model.model, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    made.generation_config.eos_token_id = stops_in_config(model) or None
    return made.eval()


def vocabulary_size(model: Model) -> int:
    """Width of the model's head: at least the tokenizer's size, often padded beyond it."""
    return int(text_config_of(model).vocab_size)


def window_in_config(model: Model) -> int | None:
    """Most tokens that a model can hold (window.window_of); its weights are not loaded."""
    return window_of(text_config_of(model))


def text_config_of(model: Model) -> PreTrainedConfig:
    """The configuration of the language model. CheckpointError where there is none to read."""
    try:
        config = AutoConfig.from_pretrained(
            model.model, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"No config.json could be read from {model.model!r}: {reason}. Expected a model folder "
            "or the name of a model on the hub."
        ) from error
    return config.get_text_config()


def _too_large(model: str) -> RunError:
    return RunError(
        f"Memory does not suffice for the weights of {model}. Set dtype: bfloat16, "
        "quantization: 4bit or device_map: auto for this model in the recipe."
    )


def stops_in_config(model: Model) -> list[int]:
    """The ids at which the model stops generating, by its generation config, or by its config where
    it has none; nothing where neither says."""
    settings = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    for kind in (GenerationConfig, AutoConfig):
        try:
            stop = kind.from_pretrained(model.model, **settings).eos_token_id
        except Exception:  # no such file: what cannot be loaded is said where it is needed
            continue
        if stop is not None:
            return list(stop) if isinstance(stop, list) else [int(stop)]
    return []
