"""One training run: a checkpoint, data and a loss in, a checkpoint and its history out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, TrainingArguments

from infifusion.process.bar import progress_bar
from infifusion.process.finite import require_finite_weights
from infifusion.process.meter import Meter
from infifusion.process.redact import redact_text
from infifusion.process.runtime import keep_freed_memory, rank, seed_everything, world_size
from infifusion.store.durable import atomic_folder
from infifusion.store.receipts import mark_of
from infifusion.train.adapters import with_lora
from infifusion.train.arguments import make_arguments
from infifusion.train.batches import Collator, Conversations
from infifusion.train.callbacks import loggers_of, logging_to, make_callbacks
from infifusion.train.checkpoints import Checkpoints
from infifusion.train.chunked import with_position_loss
from infifusion.train.gate import GateLearns
from infifusion.train.health import Watch, explained, require_finite
from infifusion.train.held_out import curve
from infifusion.train.job import Job, check_ids, positions
from infifusion.train.own_text import Steps
from infifusion.train.packing import Packs, check_packing, pack
from infifusion.train.parallel import elements, environment_restored, join
from infifusion.train.rounds import Given, Rounds
from infifusion.train.start import checkpoint_dtype, load_start, merged
from infifusion.train.trainer import FusionTrainer, shares_of
from infifusion.types import Rendered

ADAPTER = "adapter"
LOGS = "logs"
KEPT_IN_HISTORY = (
    "step",
    "epoch",
    "loss",
    "cross_entropy",
    "divergence",
    "learning_rate",
    "grad_norm",
)


def train(job: Job, out: Path, *, name_of: Callable[[int], str]) -> dict[str, Any]:
    """Train, write out/model (a whole Hugging Face folder) and return the history. With LoRA the
    adapters lie in out/adapter as well.

    Weights are float32 while they train, under bf16 autocast on a GPU, and are saved in the dtype
    of the checkpoint they came from. Checkpoints of an interrupted run lie in out/checkpoints and
    are gone on from; they stay until the caller has signed for the model. What TensorBoard shows
    lies in out/logs. name_of gives an example's id by its number, for errors.

    Raises CheckpointError where the start holds NaN or Inf, NumericsError where a loss, a gradient
    or a weight becomes one, RunError where the loss goes away or memory runs out. The last good
    checkpoint stays.
    """
    started, gated = time.monotonic(), job.gate is not None
    seed_everything(job.seed)
    dtype = checkpoint_dtype(job.model)
    with environment_restored():
        arguments = make_arguments(
            job.training,
            out=out / "checkpoints",
            seed=job.seed,
            bf16_by_default=dtype is torch.bfloat16,
            parallel=job.parallel,
        )
        join(job.parallel, arguments.device)
        if arguments.device.type == "cpu":
            keep_freed_memory()
        model = load_start(job.model, device=arguments.device)
        require_finite_weights(model, job.model.model)
        check_ids(job, model)
        if job.pack_tokens is not None:
            check_packing(model, where=job.title.replace(" ", "."))
        domains = sorted(set(job.domains or [""]))
        model = with_position_loss(
            model,
            job.loss,
            gold_weight=job.gold_weight,
            loss_rows=job.loss_rows,
            gate=job.gate,
            domains=len(domains),
        )
        trained = model if job.lora is None else with_lora(model, job.lora)
        sizes = [(elements(p), p.requires_grad) for p in trained.parameters()]
        data, collate = _batches(job, arguments, domains)
        checkpoints = Checkpoints(out / "checkpoints", mark_of(out), arguments.save_total_limit)
        arguments.save_total_limit = None  # Checkpoints deletes old ones, when the new is signed
        with (
            logging_to(out / LOGS, loggers_of(arguments.report_to)),
            explained(job, arguments, checkpoints.last_whole),
            progress_bar(job.title, 0, "steps") as meter,
        ):
            rounds = None
            if job.own is not None:
                rounds = _rounds(job, model, arguments, out, meter, lambda: trainer.accelerator)
            trainer = FusionTrainer(
                name_of=name_of,
                domains=domains,
                meter=meter,
                rounds=rounds,
                gated=gated,
                model=trained,
                args=arguments,
                train_dataset=data,
                data_collator=collate,
                held_out=job.held_out,
                callbacks=make_callbacks(job.callbacks),
            )
            newest = checkpoints.to_go_on_from()
            if job.gate is not None:
                learns = GateLearns(job.gate, trainer.leads_of_step)
                learns.go_on_from(newest)
                trainer.add_callback(learns)
            trainer.add_callback(checkpoints)  # signs what the others have put there
            if job.patience is not None:
                trainer.add_callback(EarlyStoppingCallback(job.patience))
            healthy = (lambda: True) if rounds is None else rounds.is_healthy
            trainer.add_callback(Watch(trainer.loss_of_step, job.stop_at_rise, healthy))
            trainer.remove_callback(PrinterCallback)  # our meter and history say it
            trainer.train(resume_from_checkpoint=newest)
            _save(trainer, job, dtype, out / "model")
    # Without a gate all count fully, which a checkpoint of an earlier version says, too.
    named = shares_of if gated else lambda line: []
    log = [
        # In one order, as a line that comes out of a checkpoint has its keys in another.
        {key: line[key] for key in (*KEPT_IN_HISTORY, *named(line)) if key in line}
        for line in trainer.state.log_history
        if "loss" in line
    ]
    best = trainer.state.best_global_step if arguments.load_best_model_at_end else None
    held_out = curve(trainer.state.log_history)
    return {
        "log": log,
        **({"held_out": held_out} if held_out else {}),
        **({"best_step": best} if best else {}),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 2),
        **positions(job),
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trains in sizes if trains),
        "device": str(arguments.device),
        "parallel": trainer.accelerator.distributed_type.value,
    }


def _batches(
    job: Job, arguments: TrainingArguments, domains: list[str]
) -> tuple[Dataset[Any], Callable[[list[Any]], Any]]:
    """The data as the trainer draws it, and what makes a batch of some of it. Where the pivot
    writes a part of it, the trainer counts places alone: the rounds make the batches."""
    if job.own is not None:
        examples = len(job.rendered) if job.chosen is None else len(job.chosen)
        places = examples if job.own.settings.share < 1 else len(job.own.prompts)
        per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps
        return Steps(places, per_step * world_size()), lambda items: {"places": items}
    conversations = Conversations(job.rendered, job.chosen)
    domain_N = None if job.domains is None else np.searchsorted(domains, job.domains)
    collator = Collator(job.rendered, job.target, domain_N)
    if job.pack_tokens is None:
        return conversations, collator
    length_N = np.diff(job.rendered.offset_N1)
    if job.chosen is not None:
        length_N = length_N[job.chosen]
    return Packs(conversations, pack(length_N, job.pack_tokens, seed=job.seed)), collator.packed


def _rounds(
    job: Job,
    model: PreTrainedModel,
    arguments: TrainingArguments,
    out: Path,
    meter: Meter,
    accelerator: Callable[[], Accelerator],
) -> Rounds:
    """What makes the batches of a run whose pivot writes part of them. accelerator: there once the
    trainer is."""
    assert job.own is not None
    conversations, collator = Conversations(job.rendered), Collator(job.rendered, job.target)
    row_N1 = job.rendered.row_N1
    return Rounds(
        job.own,
        Given(
            np.arange(len(job.rendered)) if job.chosen is None else job.chosen,
            len(job.rendered),
            lambda some: collator([conversations[n] for n in some]),
            lambda n: int(row_N1[n + 1] - row_N1[n]),
        ),
        model=model,
        autocast=lambda: accelerator().autocast(),
        out=out,
        seed=job.seed,
        micro=arguments.train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        meter=meter,
    )


def _save(trainer: FusionTrainer, job: Job, dtype: torch.dtype, out: Path) -> None:
    """Write a whole checkpoint folder or nothing. Every process takes part in the gathering."""
    if job.lora is not None:
        adapted = trainer.accelerator.unwrap_model(trainer.model)
        if rank() == 0:
            _save_adapter(adapted, out.parent / ADAPTER)
        model = merged(adapted, job.model)
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
    stored = _in_dtype(model, state, dtype)
    require_finite(stored.items(), f"after the last step, as {dtype}")
    _stop_where_taught(model, job.rendered)
    with atomic_folder(out) as folder:
        model.save_pretrained(folder, state_dict=stored)
        _set_config_dtype(
            folder, str(dtype).removeprefix("torch.")
        )  # save_pretrained names the dtype of training
        job.tokenizer.save_pretrained(folder)


def _stop_where_taught(model: PreTrainedModel, rendered: Rendered) -> None:
    """Generation stops at the tokens that ended the turns of training, and where it stopped before.
    A base model that learns a chat template's end of turn would go on to its limit otherwise."""
    config = model.generation_config
    if config is None:
        return
    taught = set(rendered.ids_L[rendered.offset_N1[1:] - 1].tolist())
    known = config.eos_token_id
    listed = known if isinstance(known, list) else [] if known is None else [known]
    if not taught <= set(listed):
        config.eos_token_id = [*sorted(taught - set(listed)), *listed]


def _set_config_dtype(folder: Path, dtype: str) -> None:
    """Let the folder's config.json name the dtype (bfloat16, ...) of the weights beside it."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _save_adapter(adapted: PeftModel, out: Path) -> None:
    """The adapters by themselves, as peft writes them: `infifusion merge` takes pivot+adapter."""
    if out.exists():
        shutil.rmtree(out)
    with atomic_folder(out) as folder:
        adapted.save_pretrained(str(folder))
        for path in (*folder.glob("*.json"), *folder.glob("*.md")):  # peft writes the base's path
            path.write_text(redact_text(path.read_text(encoding="utf-8")), encoding="utf-8")


def _in_dtype(
    model: PreTrainedModel, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The weights in a dtype. One that stands under two names (tied embeddings) stays one tensor,
    which save_pretrained writes once; gathered from FSDP or converted, each name had its own."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    made: dict[int, torch.Tensor] = {}
    stored = {}
    for name, value in state.items():
        same = id(weights.get(name, value))
        if same not in made:
            made[same] = value.to(dtype) if value.is_floating_point() else value
        stored[name] = made[same]
    return stored
