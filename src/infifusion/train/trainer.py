"""A thin subclass of transformers.Trainer: one global reduction, the parts of the loss logged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from infifusion.artifacts import write_json
from infifusion.durable import sync
from infifusion.errors import NumericsError
from infifusion.runtime import progress_bar
from infifusion.train.parallel import shard

PARTS = ("cross_entropy", "divergence")
WHOLE = "whole.json"
"""Written last into a checkpoint, when every process's files of it are on the disk."""


class FusionTrainer(Trainer):
    """Trainer for models made by train.chunked.with_position_loss.

    The loss of a step is the sum over response positions divided by their number, over all
    micro-batches and processes together: 8 x 1, 4 x 2 and 1 x 8 take the same step.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *, name_of: Callable[[int], str], **keywords: Any) -> None:
        """name_of gives the id of an example by its number, for errors."""
        super().__init__(**keywords)
        self._name_of = name_of
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._counts = dict.fromkeys(PARTS, 0)

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
        count = torch.tensor(sum(len(batch["gold_R"]) for batch in samples), device=device)
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
        naming the examples when the loss is NaN or Inf.
        """
        out = model(**inputs)
        if not torch.isfinite(out["loss"]):
            names = ", ".join(self._name_of(int(n)) for n in inputs["example_B"])
            raise NumericsError(
                f"The loss is {out['loss'].item()} in step {self.state.global_step + 1}, in one of "
                f"the examples {names}. Lower learning_rate, set max_grad_norm, or train in "
                "float32 (bf16: false)."
            )
        self._sums["cross_entropy"] += float(out["cross_entropy"])
        self._sums["divergence"] += float(out["divergence"])
        self._counts["cross_entropy"] += len(inputs["gold_R"])
        self._counts["divergence"] += int(out["taught"])
        items = len(inputs["gold_R"]) if num_items_in_batch is None else num_items_in_batch
        loss = out["loss"] / items * self.args.world_size
        return (loss, out) if return_outputs else loss

    def _run_epoch(self, **keywords: Any) -> None:
        """transformers' own; but where the checkpoint is that of the last step, it would take one
        step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**keywords)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """transformers' own, signed by WHOLE; only then older ones go, by their step.

        transformers removes before the new one is on the disk, and by the time of the files: where
        the clock was set back, that removes the new one.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        folder = Path(self._get_output_dir(trial=trial))
        place = folder / f"checkpoint-{self.state.global_step}"
        files = sorted(path for path in place.rglob("*") if path.is_file())
        sync(*files)
        sizes = {str(path.relative_to(place)): path.stat().st_size for path in files}
        write_json(place / WHOLE, {"files": sizes})
        sync(place)
        rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Add the mean cross-entropy and divergence since the last line, of this process."""
        if "loss" in logs:
            for part in PARTS:
                if self._counts[part]:
                    logs[part] = round(self._sums[part] / self._counts[part], 6)
                self._sums[part], self._counts[part] = 0.0, 0
        super().log(logs, *arguments, **keywords)


class ProgressBar(TrainerCallback):
    """A rich progress bar over optimizer steps, with the last loss."""

    def __init__(self, title: str) -> None:
        self._title = title

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._context = progress_bar(self._title, state.max_steps)
        self._progress = self._context.__enter__()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._progress.update(self._progress.task_ids[0], completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        last = next((line["loss"] for line in reversed(state.log_history) if "loss" in line), None)
        if last is not None:
            title = f"{self._title} (loss {last:.3f})"
            self._progress.update(self._progress.task_ids[0], description=title)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._context.__exit__(None, None, None)
