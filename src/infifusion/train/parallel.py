"""How several processes train one model: what `parallel: ddp | fsdp | deepspeed` stands for."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from infifusion.errors import RecipeError
from infifusion.process.runtime import world_size

REMEMBERED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")

# FSDP2; the layers are the model's own _no_split_modules, checkpoints and the saved model whole.
FSDP: dict[str, Any] = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "reshard_after_forward": True,
    "state_dict_type": "FULL_STATE_DICT",
}

# ZeRO-3; `auto` is what TrainingArguments say.
DEEPSPEED: dict[str, Any] = {
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "bf16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}


def parallel_settings(parallel: str, values: dict[str, Any]) -> dict[str, Any]:
    """The TrainingArguments that `parallel` stands for, under what the recipe says in `training`.

    With one process there is nothing to share, and `fsdp` trains as `ddp` does. Raises RecipeError
    for settings of another way than the one named, and where deepspeed is not installed.
    """
    for key, way in (("fsdp_config", "fsdp"), ("deepspeed", "deepspeed")):
        if values.get(key) and parallel != way:
            raise RecipeError(
                f"training.{key} is set, but the run says parallel: {parallel}. Write "
                f"`parallel: {way}`, or remove {key}."
            )
    if parallel == "deepspeed":
        _require_config(values.get("deepspeed"))
        if importlib.util.find_spec("deepspeed") is None:
            raise RecipeError(
                "parallel: deepspeed needs the package deepspeed, which is not installed. Run "
                "`pip install deepspeed`, or write `parallel: fsdp`, which shards as much."
            )
        return {"deepspeed": values.get("deepspeed") or DEEPSPEED}
    if parallel == "fsdp" and world_size() > 1:
        given = values.get("fsdp_config") or {}
        if not isinstance(given, dict):
            raise RecipeError(f"training.fsdp_config: expected a mapping, found {given!r}.")
        return {"fsdp": True, "fsdp_config": {**FSDP, **given}}
    return {"fsdp_config": None}


def _require_config(given: object) -> None:
    """RecipeError unless `training.deepspeed` is left out, a mapping, or a JSON file of one."""
    if given is None or isinstance(given, dict):
        return
    try:
        values = json.loads(Path(str(given)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"training.deepspeed: {given!r:.200} is no mapping, and no JSON file that can be read: "
            f"{error}. Write DeepSpeed's keys there, or leave it out for ZeRO-3."
        ) from None
    if not isinstance(values, dict):
        raise RecipeError(f"training.deepspeed: {given} holds no mapping of DeepSpeed's keys.")


def join(parallel: str, device: torch.device) -> None:
    """Tell deepspeed of the process group before a model is loaded.

    accelerate does so on GPUs only; on CPUs (DS_ACCELERATOR=cpu) ZeRO-3 would take every process
    for the only one.
    """
    if parallel == "deepspeed" and device.type == "cpu" and world_size() > 1:
        import deepspeed  # pyright: ignore[reportMissingImports]

        deepspeed.init_distributed(dist_backend="gloo")


def elements(parameter: torch.nn.Parameter) -> int:
    """Elements of a parameter, also where ZeRO-3 holds a part of it here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def shard(accelerator: Accelerator, plugin_arguments: dict[str, Any]) -> None:
    """Finish what accelerate leaves undone for FSDP2.

    On CPUs it takes the plugin and forgets it (accelerate 1.15: AcceleratorState looks at it for
    MULTI_GPU and the like only), so training would silently be DDP. Under bf16 its policy rounds
    the loss and the target's probabilities to bf16 and adds gradients up in bf16; here weights
    alone are cast.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    state = accelerator.state
    plugin = state.fsdp_plugin if state.distributed_type == DistributedType.FSDP else None
    if plugin is None:
        plugin = FullyShardedDataParallelPlugin(**plugin_arguments)
        state.distributed_type = DistributedType.FSDP
        # Every AcceleratorState() copies it from there.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = plugin
    if accelerator.mixed_precision == "bf16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            output_dtype=None,
            cast_forward_inputs=False,
        )


@contextmanager
def environment_restored() -> Iterator[None]:
    """On leaving, restore what would make the next run of this process shard its model too.

    accelerate remembers FSDP and DeepSpeed in variables, transformers ZeRO-3 in a module.
    """
    before = {name: os.environ.get(name) for name in REMEMBERED}
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
