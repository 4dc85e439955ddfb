"""A thin subclass of transformers.Trainer: one global reduction, the parts of the loss logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from infifusion.errors import NumericsError
from infifusion.process.finite import first_not_finite
from infifusion.process.meter import Meter
from infifusion.train.health import bad_gradient
from infifusion.train.held_out import HeldOut
from infifusion.train.parallel import shard
from infifusion.train.rounds import Rounds

PARTS = ("cross_entropy", "divergence")
SHARE = "share"
"""How far the sources counted where they teach; behind a slash, in one domain."""
OF_TARGET = ("prob_RK", "zscore_RK")
NUMBERS = "Lower learning_rate, lower max_grad_norm, or train in float32 (bf16: false)."


class FusionTrainer(Trainer):
    """Trainer for models made by train.chunked.with_position_loss.

    The loss of a step is the sum over response positions divided by their number, over all
    micro-batches and processes together: 8 x 1, 4 x 2 and 1 x 8 take the same step.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        name_of: Callable[[int], str],
        meter: Meter,
        domains: Sequence[str] = ("",),
        held_out: HeldOut | None = None,
        rounds: Rounds | None = None,
        gated: bool = False,
        **keywords: Any,
    ) -> None:
        """name_of gives the id of an example by its number, for errors. meter: of the steps.
        domains: by their numbers, as batches hold them. held_out: what the model is scored on where
        eval_strategy asks for it. rounds: makes the batches of each step, where the pivot writes
        part of what it learns. gated: whether a gate says how far the sources count; else that is
        not logged, as it is 1."""
        super().__init__(eval_dataset=cast(Any, held_out), **keywords)
        self._held_out = held_out
        self._rounds, self._gated = rounds, gated
        self.add_callback(Advances(meter))
        self._name_of = name_of
        self._meter = meter
        self._shares = [SHARE] if len(domains) == 1 else [f"{SHARE}/{name}" for name in domains]
        self._sums = dict.fromkeys([*PARTS, *self._shares], 0.0)
        self._counts = dict.fromkeys([*PARTS, *self._shares], 0)
        self._step_sum, self._step_count = 0.0, 0
        self._step_leads = [[0.0, 0.0] for _ in self._shares]

    def create_accelerator_and_postprocess(self) -> None:
        """transformers' own, and FSDP2 where accelerate alone would not do it."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is not None:
            shard(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """The micro-batches of one step and the number of response positions in all of them."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._rounds is not None:
            samples = self._rounds.batches(self.state.global_step, self.state.max_steps)
        count = torch.tensor(sum(_count(batch) for batch in samples), device=device)
        if self.args.world_size > 1:
            count = cast(torch.Tensor, self.accelerator.gather(count[None])).sum()
        return samples, count

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Sum over the micro-batch's positions / positions of the whole step.

        Times the number of processes, because their gradients are averaged. Raises NumericsError
        naming the examples when the loss is NaN or Inf, and the weight or target that is.
        """
        out = model(**inputs)
        # In one copy from the device: every one makes the processor wait for it.
        figures = torch.stack([out[name].detach().float() for name in ("loss", *PARTS)])
        by_domain = [out[name].detach().float() for name in ("taught_D", "share_D", "lead_D")]
        found, size = torch.cat([figures, *by_domain]).tolist(), len(self._shares)
        loss_sum, cross_entropy, divergence = found[:3]
        taught_D, share_D, lead_D = (found[3 + n * size :][:size] for n in range(3))
        if not math.isfinite(loss_sum):
            bad = first_not_finite(model.named_parameters())
            bad = bad or first_not_finite((name, inputs.get(name)) for name in OF_TARGET)
            raise NumericsError(
                f"The loss is {loss_sum} in step {self.state.global_step + 1}, in one of "
                f"the examples {self._names(inputs)}; "
                + (f"{bad} holds NaN or Inf. " if bad else "weights and targets are finite. ")
                + NUMBERS
            )
        self._step_sum += loss_sum
        self._step_count += _count(inputs)
        # As many as in the other processes, or nearly: enough for a rate, and nothing is sent.
        self._meter.tokens += inputs["input_ids"].numel() * self.args.world_size
        self._sums["cross_entropy"] += cross_entropy
        self._sums["divergence"] += divergence
        self._counts["cross_entropy"] += _given(inputs)
        self._counts["divergence"] += int(sum(taught_D))
        for d, (name, taught, share) in enumerate(
            zip(self._shares, taught_D, share_D, strict=True)
        ):
            self._sums[name] += share
            self._counts[name] += int(taught)
            self._step_leads[d][0] += lead_D[d]
            self._step_leads[d][1] += taught
        items = _count(inputs) if num_items_in_batch is None else num_items_in_batch
        loss = out["loss"] / max(items, 1e-9) * self.args.world_size
        return (loss, out) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """transformers' own. Raises NumericsError naming examples and parameter when a gradient is
        NaN or Inf, before it reaches the weights."""
        loss = super().training_step(model, inputs, num_items_in_batch)  # pyright: ignore
        # With float16 an overflow is the scaler's business: it takes a smaller scale.
        if self.accelerator.scaler is None and (bad := bad_gradient(model)):
            raise NumericsError(
                f"The gradient of {bad} is NaN or Inf in step {self.state.global_step + 1}, in one "
                f"of the examples {self._names(inputs)}. {NUMBERS}"
            )
        return loss

    def _run_epoch(self, *arguments: Any, **keywords: Any) -> None:
        """transformers' own; but where the checkpoint is that of the last step, it would take one
        step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **keywords)

    def loss_of_step(self) -> float:
        """Mean loss over the positions since the last call, of all processes."""
        total, count = self._step_sum, self._step_count
        self._step_sum, self._step_count = 0.0, 0
        if self.args.world_size > 1:
            both = torch.tensor([total, count], device=self.args.device)
            total, count = cast(torch.Tensor, self.accelerator.reduce(both, "sum")).tolist()
        return total / max(count, 1)

    def leads_of_step(self) -> list[list[float]]:
        """By domain, the sources' lead and at how many positions, summed since the last call, of
        all processes."""
        found, self._step_leads = self._step_leads, [[0.0, 0.0] for _ in self._shares]
        if self.args.world_size > 1:
            both = torch.tensor(found, dtype=torch.float64, device=self.args.device)
            found = cast(torch.Tensor, self.accelerator.reduce(both, "sum")).tolist()
        return found

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Bits per byte of what is held out, in all and by domain; every process goes over all of
        it, so none waits for another."""
        assert self._held_out is not None, "transformers asks for data where it evaluates"
        device, model = self.args.device, cast(nn.Module, self.model_wrapped)
        training = model.training

        def score(batch: dict[str, torch.Tensor]) -> float:
            placed = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                return float(model(**placed, gold_only=True)["cross_entropy"])

        model.eval()
        try:
            size = self.args.per_device_eval_batch_size
            metrics = self._held_out.scores(score, batch_size=size)
        finally:
            model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _names(self, inputs: dict[str, Any]) -> str:
        return ", ".join(self._name_of(int(n)) for n in inputs["example_B"])

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Add the mean cross-entropy and divergence since the last line, of this process."""
        if "loss" in logs:
            for part in self._sums:
                if self._counts[part] and (self._gated or part in PARTS):
                    logs[part] = round(self._sums[part] / self._counts[part], 6)
                self._sums[part], self._counts[part] = 0.0, 0
            if self._rounds is not None:
                logs |= self._rounds.last
        super().log(logs, *arguments, **keywords)


def _count(batch: dict[str, Any]) -> float:
    """What the positions of a batch count for together: their number, unless they are scaled."""
    scale_R = batch.get("scale_R")
    return len(batch["gold_R"]) if scale_R is None else float(scale_R.sum())


def _given(batch: dict[str, Any]) -> int:
    """Positions whose text was given, and not written by the pivot itself."""
    own_R = batch.get("own_R")
    return len(batch["gold_R"]) - (0 if own_R is None else int(own_R.sum()))


def shares_of(line: dict[str, Any]) -> list[str]:
    """The keys of a line of the log that say how far the sources counted, by domain."""
    return sorted(key for key in line if key.startswith(SHARE))


class Advances(TrainerCallback):
    """Keeps a meter at the optimizer step and the loss; after a resume, with the curve so far."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._meter.total = state.max_steps
        state.compute_steps(args, state.max_steps)  # a checkpoint's say what they were
        if state.logging_steps:  # every run has a curve of ten points or more
            state.logging_steps = max(1, min(state.logging_steps, state.max_steps // 10))
        self._meter.start_from(state.global_step)
        for line in state.log_history:
            if "loss" in line:
                self._meter.lose(line["loss"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._meter.reach(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if "loss" in state.log_history[-1]:
            self._meter.lose(state.log_history[-1]["loss"])
