"""Loading the model of a teacher pass."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from infifusion.errors import CheckpointError
from infifusion.recipe import Model
from infifusion.runtime import keep_freed_memory, pick_device, pick_dtype, quantization_config


def load_model(model: Model) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained`, in evaluation mode, on the best device.

    Only safetensors are read, never pickles. Raises CheckpointError with the reason, in
    particular when weights are missing and would be left at random values; RecipeError where
    quantisation is asked for and bitsandbytes is missing.
    """
    device = pick_device()
    if device == "cpu":
        keep_freed_memory()
    folder = Path(model.model)
    if (folder.is_dir() or folder.is_absolute()) and not (folder / "config.json").exists():
        raise CheckpointError(
            f"The folder {folder} holds no config.json: not a model folder. Give one that "
            "save_pretrained wrote."
        )
    placed = {"device_map": model.device_map}
    if model.quantization is not None:
        # bitsandbytes quantises on the device where the weights will stay.
        placed = {
            "device_map": model.device_map or {"": device},
            "quantization_config": quantization_config(model.quantization),
        }
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
            model.model,
            revision=model.revision,
            dtype=pick_dtype(model.dtype, device),
            trust_remote_code=model.trust_remote_code,
            attn_implementation=model.attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **placed,
        )
    except Exception as error:  # transformers and safetensors raise many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"No model could be loaded from {model.model!r}: {type(error).__name__}: {reason}. "
            "Expected a folder with config.json and safetensors weights of a causal language "
            "model, or the name of one on the hub."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{model.model} lacks {len(missing)} of the weights its config.json asks for, such as "
            f"{missing[0]}; they would stay random. Is the config.json of another model? "
            "Copy or download the whole folder again."
        )
    if model.device_map is None and model.quantization is None:
        loaded.to(device)
    loaded.eval()
    bad = next((n for n, p in loaded.named_parameters() if not torch.isfinite(p).all()), None)
    if bad is not None:
        raise CheckpointError(
            f"{model.model}: the tensor {bad} holds NaN or Inf. The checkpoint is damaged; take an "
            "earlier one."
        )
    return loaded


def vocabulary_size(model: Model) -> int:
    """Width of the model's head: at least the tokenizer's size, often padded beyond it."""
    config = AutoConfig.from_pretrained(
        model.model, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    return int(config.get_text_config().vocab_size)
