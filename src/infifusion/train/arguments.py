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
from infifusion.train.held_out import METRIC
from infifusion.train.parallel import environment_restored, parallel_settings

# Fields that a recipe may not set, because the stage decides them; and why.
OWN = {
    "output_dir": "the stage writes to its own folder of the run",
    "remove_unused_columns": "the loss needs every column",
    "seed": "the recipe's seed is used",
    "do_train": "the stage always trains",
    "do_eval": "`eval_strategy` says it",
    **dict.fromkeys(
        (
            "prediction_loss_only",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "batch_eval_metrics",
            "include_for_metrics",
            "bf16_full_eval",
            "fp16_full_eval",
        ),
        "evaluation scores bits per byte, which has no use for it",
    ),
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


DECIDES_NOTHING = (
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_on_each_node",
    "logging_dir",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_level",
    "report_to",
    "run_name",
    "disable_tqdm",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "ddp_timeout",
)
"""Values that may change in a run that has begun: the weights are the same."""
EVALUATIONS = 0.1
"""Of the steps, between two scores on held-out data."""
KEEPS_THE_BEST = ("load_best_model_at_end",)


def decides_nothing(*values: dict[str, Any]) -> tuple[str, ...]:
    """Of DECIDES_NOTHING those that do so with these values: which checkpoint is kept as the best
    depends on when some are saved."""
    best = any(one.get(key) for one in values for key in KEEPS_THE_BEST)
    return tuple(key for key in DECIDES_NOTHING if not (best and key.startswith("save_")))


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


def _by_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """The values with gradient_checkpointing by the name that newer versions of transformers have
    for it; they warn of the old one in every run. A strategy of `no` without quotes is false to
    YAML."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    named = {}
    for key, value in values.items():
        new = key.replace("gradient_checkpointing", "activation_checkpointing")
        value = "no" if value is False and key.endswith("_strategy") else value
        named[new if new in known and new not in values else key] = value
    return named


def _evaluating(values: dict[str, Any]) -> dict[str, Any]:
    """Ours where a run is scored while it trains: ten times, by bits per byte; a checkpoint each
    time where the best is to be kept."""
    settings: dict[str, Any] = {"metric_for_best_model": METRIC, "greater_is_better": False}
    if values["eval_strategy"] == "steps":
        settings["eval_steps"] = EVALUATIONS
    if any(values.get(key) for key in KEEPS_THE_BEST):
        settings["save_strategy"] = values["eval_strategy"]
        settings["save_steps"] = values.get("eval_steps", EVALUATIONS)
    return settings


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
    values = _by_new_names(values)
    evaluates = values.get("eval_strategy") not in ("no", None)
    on_cpu = not torch.cuda.is_available()
    settings = {
        **DEFAULTS,
        "use_cpu": on_cpu,
        "bf16": bf16_by_default and not on_cpu,
        "dataloader_pin_memory": not on_cpu,
        **(_evaluating(values) if evaluates else {}),
        **values,
        **parallel_settings(parallel, values),
        "output_dir": str(out),
        "seed": seed,
        "remove_unused_columns": False,
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
