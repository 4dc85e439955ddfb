"""Errors of a training run, with the checkpoint that is left and the settings to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import TrainingArguments

from infifusion.errors import NumericsError, RunError
from infifusion.process.memory import ran_out
from infifusion.train.job import Job


@contextmanager
def explained(
    job: Job, arguments: TrainingArguments, last_checkpoint: Callable[[], str | None]
) -> Iterator[None]:
    """Within it, an error is raised again with the run's title and the checkpoint that is kept; one
    of memory that ran out becomes a RunError that lists the settings that take less."""
    try:
        yield
    except (NumericsError, RunError) as error:
        kept = last_checkpoint()
        said = (
            f"The last good checkpoint is kept: {kept}."
            if kept
            else f"No checkpoint was saved before (save_steps is {arguments.save_steps})."
        )
        raise type(error)(f"{job.title}: {error} {said}") from error
    except Exception as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"{job.title}: the memory of {arguments.device} does not suffice. To take less, in "
            f"this order: {'; '.join(_what_takes_less(job, arguments))}. `infifusion plan` says "
            "what a setting needs. Then run again with --redo."
        ) from error


def _what_takes_less(job: Job, arguments: TrainingArguments) -> list[str]:
    """Settings that take less memory and are not used yet, those that change least first."""
    advice = []
    size, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    if size > 1:
        advice.append(
            f"per_device_train_batch_size {size} -> {size // 2} with gradient_accumulation_steps "
            f"{steps} -> {-(-steps * size // (size // 2))} (the same steps)"
        )
    if not arguments.gradient_checkpointing:
        advice.append("gradient_checkpointing: true (the same steps, slower)")
    if job.loss_rows > 32:
        advice.append(f"loss_rows {job.loss_rows} -> {job.loss_rows // 2} (the same steps)")
    if job.parallel == "ddp":
        advice.append("parallel: fsdp on several GPUs")
    if job.pack_tokens is not None:
        advice.append("packing: false, or a smaller data.max_length")
    else:
        advice.append("a smaller data.max_length")
    if job.lora is None:
        advice.append("lora: {r: 16}")
    elif job.model.quantization is None:
        advice.append("pivot.quantization: 4bit")
    return advice
