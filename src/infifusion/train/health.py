"""Checks while a model trains: NaN and Inf in weights and gradients, a loss that diverges, answers
that run away; and errors with the checkpoint that is left and the settings to change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from infifusion.errors import NumericsError, RunError
from infifusion.process.finite import first_not_finite, local
from infifusion.process.memory import ran_out
from infifusion.train.job import Job

# Long enough that one odd batch does not stop a run, short enough that little is lost.
WINDOW = 20  # steps
LEAST_RISE = 1.0  # nats, or what the loss is measured in


def require_finite(weights: Iterable[tuple[str, torch.Tensor]], when: str) -> None:
    """NumericsError where a trained weight is NaN or Inf."""
    if bad := first_not_finite(weights):
        raise NumericsError(
            f"The weight {bad} is NaN or Inf {when}; it was not saved. Lower learning_rate, or "
            "train in float32 (bf16: false)."
        )


def bad_gradient(model: nn.Module) -> str | None:
    """The name of the first parameter whose gradient holds NaN or Inf; one pass over all of them
    where none does."""
    gradients = {n: local(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    if torch.isfinite(torch.nn.utils.get_total_norm(list(gradients.values()))):
        return None
    return first_not_finite(gradients.items()) or f"{len(gradients)} parameters together (overflow)"


class Watch(TrainerCallback):
    """Stops a run whose loss diverges, and saves no checkpoint while it does.

    The mean loss of WINDOW steps may rise to `rise` times the lowest such mean so far, and by
    LEAST_RISE at any rate. A checkpoint that falls due in a step with a higher loss, or while the
    pivot's own answers are on their way to running away, waits until neither holds; none is saved
    with NaN or Inf in a weight.
    """

    def __init__(
        self,
        loss_of_step: Callable[[], float],
        rise: float | None,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """loss_of_step: mean loss of the step that ends, the same in every process. healthy:
        whether the answers are as they may be."""
        self._loss_of_step, self._rise, self._healthy = loss_of_step, rise, healthy
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._lowest = float("inf")
        self._due = False

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **keywords: Any,
    ) -> None:
        loss = self._loss_of_step()
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if self._rise is not None and len(self._recent) == WINDOW:
            if mean > self._bound():
                raise RunError(
                    f"Training goes wrong: the mean loss of steps {state.global_step - WINDOW + 1} "
                    f"to {state.global_step} is {mean:.3f}, after {self._lowest:.3f} before. Lower "
                    "learning_rate, warm up longer or lower max_grad_norm (with --redo, from the "
                    "start), or raise stop_at_rise to go on regardless."
                )
            self._lowest = min(self._lowest, mean)
        self._hold_back(state, control, keywords["model"], loss)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **keywords: Any,
    ) -> None:
        self._hold_back(state, control, keywords["model"], self._recent[-1])

    def _hold_back(
        self, state: TrainerState, control: TrainerControl, model: nn.Module, loss: float
    ) -> None:
        """Put a checkpoint that is due off while what it holds is not to be kept."""
        due = control.should_save or self._due
        self._due = due and (loss > self._bound() or not self._healthy())
        control.should_save = due and not self._due
        if control.should_save:
            require_finite(model.named_parameters(), f"after step {state.global_step}")

    def _bound(self) -> float:
        """The highest loss at which a run goes on."""
        if self._rise is None:
            return float("inf")
        return max(self._rise * self._lowest, self._lowest + LEAST_RISE)


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
