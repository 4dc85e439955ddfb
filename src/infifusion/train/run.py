"""One training run: a checkpoint, data and a loss in, a checkpoint and its history out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
)

from infifusion.artifacts import atomic_folder
from infifusion.errors import CheckpointError, RecipeError
from infifusion.recipe import Lora
from infifusion.runtime import keep_freed_memory, rank, seed_everything
from infifusion.train.arguments import make_arguments
from infifusion.train.batches import Collator, Conversations
from infifusion.train.chunked import PositionLoss, with_position_loss
from infifusion.train.trainer import FusionTrainer, ProgressBar
from infifusion.types import Rendered, Target
from infifusion.weights.writer import set_config_dtype

KEPT_IN_HISTORY = (
    "step",
    "epoch",
    "loss",
    "cross_entropy",
    "divergence",
    "learning_rate",
    "grad_norm",
)


@dataclass(frozen=True)
class Job:
    """Everything one run needs.

    model: folder or hub name to start from. rendered: its examples. target: what the sources say,
    one row per response position, or None. loss: called where a source teaches, or None.
    """

    title: str
    model: str
    tokenizer: PreTrainedTokenizerBase
    rendered: Rendered
    target: Target | None
    loss: PositionLoss | None
    gold_weight: float
    loss_rows: int
    training: dict[str, Any]
    lora: Lora | None
    seed: int
    revision: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None


def train(job: Job, out: Path, *, name_of: Callable[[int], str]) -> dict[str, Any]:
    """Train, write out/model (a whole Hugging Face folder) and return the history.

    Weights are float32 while they train, under bf16 autocast on a GPU, and are saved in the dtype
    of the checkpoint they came from. Checkpoints of an interrupted run lie in out/checkpoints and
    are gone on from. name_of gives an example's id by its number, for errors.
    """
    started = time.monotonic()
    seed_everything(job.seed)
    model, dtype = _load(job)
    arguments = make_arguments(
        job.training,
        out=out / "checkpoints",
        seed=job.seed,
        bf16_by_default=dtype is torch.bfloat16,
    )
    if arguments.device.type == "cpu":
        keep_freed_memory()
    if job.lora is not None and (arguments.fsdp or arguments.deepspeed):
        raise RecipeError(
            f"{job.title}: lora cannot be combined with fsdp or deepspeed yet. Remove one of them."
        )
    model = with_position_loss(
        model, job.loss, gold_weight=job.gold_weight, loss_rows=job.loss_rows
    )
    trained = model if job.lora is None else _with_lora(model, job.lora)
    sizes = [(p.numel(), p.requires_grad) for p in trained.parameters()]
    trainer = FusionTrainer(
        name_of=name_of,
        model=trained,
        args=arguments,
        train_dataset=Conversations(job.rendered),
        data_collator=Collator(job.rendered, job.target),
        callbacks=[ProgressBar(job.title)],
    )
    trainer.remove_callback(PrinterCallback)  # our progress bar and history say it
    trainer.train(resume_from_checkpoint=_last_checkpoint(out / "checkpoints"))
    _save(trainer, job, dtype, out / "model")
    if rank() == 0:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    log = [
        {key: line[key] for key in KEPT_IN_HISTORY if key in line}
        for line in trainer.state.log_history
        if "loss" in line
    ]
    return {
        "log": log,
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 2),
        "positions": len(job.rendered.start_R),
        "taught_positions": _taught(job.target),
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trains in sizes if trains),
        "device": str(arguments.device),
    }


def _load(job: Job) -> tuple[PreTrainedModel, torch.dtype]:
    """The model in float32, and the dtype of its checkpoint."""
    options = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    config = AutoConfig.from_pretrained(job.model, **options)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=torch.float32,
        attn_implementation=job.attn_implementation,
        use_safetensors=True,
        **options,
    )
    width = int(config.get_text_config().vocab_size)
    largest = int(job.rendered.ids_L.max(initial=-1))
    if job.target is not None:
        largest = max(largest, int(job.target.ids_TK.max(initial=-1)))
    if largest >= width:
        raise CheckpointError(
            f"{job.title}: the data holds the token id {largest}, but the model at {job.model} has "
            f"{width} entries in its head: tokenizer and model do not belong together."
        )
    return model, dtype


def _with_lora(model: PreTrainedModel, lora: Lora) -> torch.nn.Module:
    from peft import LoraConfig, TaskType, get_peft_model

    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  (peft scales by any number)
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise RecipeError(f"lora: {error}") from error


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; one without its last file was cut short and is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if (path / "trainer_state.json").exists()]
    if rank() == 0:
        for path in found:
            if path not in whole:
                shutil.rmtree(path)
    return str(whole[-1]) if whole else None


def _save(trainer: FusionTrainer, job: Job, dtype: torch.dtype, out: Path) -> None:
    """Write a whole checkpoint folder or nothing. Every process takes part in the gathering."""
    if job.lora is not None:
        model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        state: dict[str, torch.Tensor] = model.state_dict()
    else:
        model = trainer.accelerator.unwrap_model(trainer.model)
        state = cast(
            dict[str, torch.Tensor], trainer.accelerator.get_state_dict(trainer.model_wrapped)
        )
    if rank() != 0:
        return
    if out.exists():  # a run that was stopped between this and the manifest
        shutil.rmtree(out)
    with atomic_folder(out) as folder:
        model.save_pretrained(
            folder,
            state_dict={
                name: value.to(dtype) if value.is_floating_point() else value
                for name, value in state.items()
            },
        )
        set_config_dtype(
            folder, str(dtype).removeprefix("torch.")
        )  # save_pretrained names the dtype of training
        job.tokenizer.save_pretrained(folder)


def _taught(target: Target | None) -> int:
    return 0 if target is None else int((target.weight_ST.sum(axis=0) > 0).sum())
