"""What a recipe's `training:` may say: every field of transformers.TrainingArguments but ours."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from infifusion.errors import RecipeError
from infifusion.process.runtime import world_size
from infifusion.registry import nearest
from infifusion.train.callbacks import check_loggers
from infifusion.train.parallel import environment_restored, parallel_settings

# Fields that a recipe may not set, because the stage decides them; and why.
OWN = {
    "output_dir": "the stage writes to its own folder of the run",
    "remove_unused_columns": "the loss needs every column",
    "seed": "the recipe's seed is used",
    "do_train": "the stage always trains",
    "do_eval": "`evaluate` scores the model",
    "eval_strategy": "`evaluate` scores the model",
    "resume_from_checkpoint": "an interrupted run goes on by itself",
    "push_to_hub": "`infifusion push` uploads the finished folder",
    "hub_token": "a recipe is copied and published; log in with `hf auth login`, or set HF_TOKEN",
    "label_smoothing_factor": "the loss is the recipe's",
    "fsdp": "write `parallel: fsdp` in the run; `training.fsdp_config` refines it",
}

# Where the recipe is silent. The rest is TrainingArguments' own.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "max_grad_norm": 1.0,
    "num_train_epochs": 1,
    "logging_steps": 10,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": 1,
    "ddp_find_unused_parameters": False,
    # Seconds that processes wait for one another. The first one alone writes a checkpoint, reads it
    # again to sign it, and looks at the last one before it goes on; at 12 bytes a parameter, 384 GB
    # of 32 billion, and the 200 MB/s of a network's disk that is over the 30 minutes of torch.
    "ddp_timeout": 4 * 3600,
    "report_to": "none",
}


def check_arguments(values: dict[str, Any], *, where: str) -> None:
    """RecipeError that lists every unknown or reserved key, or names a logger that is not there;
    `where` is the recipe key."""
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    problems = []
    for name in values:
        if name in OWN:
            problems.append(f"'{name}' cannot be set here: {OWN[name]}")
        elif name not in known:
            problems.append(
                f"transformers.TrainingArguments has no field '{name}'.{nearest(name, known)}"
            )
    if problems:
        listed = "; ".join(problem.rstrip(".") for problem in problems)
        raise RecipeError(f"{where}: {listed}{'' if listed.endswith('?') else '.'}")
    check_loggers(values.get("report_to"), where=where)


def try_arguments(values: dict[str, Any], *, parallel: str, where: str) -> None:
    """RecipeError where transformers does not accept a value. Tried in one process alone: with
    several it would have them meet."""
    check_arguments(values, where=where)
    if world_size() > 1 or parallel != "ddp":
        return
    with tempfile.TemporaryDirectory() as out, environment_restored():
        make_arguments(values, out=Path(out), seed=0, bf16_by_default=False, where=where)


def make_arguments(
    values: dict[str, Any],
    *,
    out: Path,
    seed: int,
    bf16_by_default: bool,
    parallel: str = "ddp",
    where: str = "training",
) -> TrainingArguments:
    """TrainingArguments of one run: the recipe's values over ours.

    parallel: ddp, fsdp or deepspeed. where: the recipe key. Raises RecipeError with transformers'
    own words when a value does not fit.
    """
    check_arguments(values, where=where)
    on_cpu = not torch.cuda.is_available()
    settings = {
        **DEFAULTS,
        "use_cpu": on_cpu,
        "bf16": bf16_by_default and not on_cpu,
        "dataloader_pin_memory": not on_cpu,
        **values,
        **parallel_settings(parallel, values),
        "output_dir": str(out),
        "seed": seed,
        "remove_unused_columns": False,
        "eval_strategy": "no",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }
    try:
        return TrainingArguments(**settings)
    except Exception as error:  # transformers and accelerate raise many kinds, all about values
        reason = str(error).rstrip(".")
        raise RecipeError(
            f"{where}: transformers does not accept this: {reason}. Change or remove the key "
            "(transformers.TrainingArguments says what it takes)."
        ) from error
