"""Loading the model that a training run starts from, with or without adapters (LoRA)."""

from __future__ import annotations

import tempfile
from typing import Any, cast

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from infifusion.process.runtime import quantization_config
from infifusion.recipe import Model
from infifusion.teacher.load import load_whole


def checkpoint_dtype(start: Model) -> torch.dtype:
    """The dtype that the checkpoint's config.json names; float32 where it names none."""
    dtype = AutoConfig.from_pretrained(start.model, **_options(start)).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def load_start(start: Model, *, device: torch.device) -> PreTrainedModel:
    """The model in float32; or quantised, on the device that trains it, ready for adapters.

    Raises CheckpointError where it cannot be loaded whole, RecipeError without bitsandbytes.
    """
    settings: dict[str, Any] = {"dtype": torch.float32}
    if start.quantization is not None:
        settings = {
            "dtype": torch.float32 if device.type == "cpu" else torch.bfloat16,
            "quantization_config": quantization_config(start.quantization),
            "device_map": {"": device},
        }
    attention = start.attn_implementation
    model = load_whole(start.model, attn_implementation=attention, **settings, **_options(start))
    if start.quantization is None:
        return model
    # Norms and embeddings in float32; activation checkpoints are the recipe's choice.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _options(start: Model) -> dict[str, Any]:
    """Keyword arguments of every from_pretrained."""
    return {"revision": start.revision, "trust_remote_code": start.trust_remote_code}


def merged(adapted: PeftModel, start: Model) -> PreTrainedModel:
    """The whole model with the adapters added to its weights.

    Trained on quantised weights, the adapters are added to the checkpoint's own: what is saved is a
    plain model again, and no weight is rounded twice.
    """
    if start.quantization is not None:
        base = AutoModelForCausalLM.from_pretrained(
            start.model, dtype=torch.float32, use_safetensors=True, **_options(start)
        )
        with tempfile.TemporaryDirectory() as folder:
            adapted.save_pretrained(folder)
            adapted = PeftModel.from_pretrained(base, folder)
    return cast(PreTrainedModel, adapted.merge_and_unload())  # pyright: ignore
