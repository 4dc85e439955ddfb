"""A gate that learns beside the model: after every step, and kept in every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from infifusion.process.runtime import rank
from infifusion.types import SparseTarget

GATE = "gate.json"


class Gate(Protocol):
    """How far the sources count at each position; losses/gate.py has ours."""

    kept: Any
    """What a checkpoint keeps of it, as JSON."""

    def __call__(self, log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        """[2, C]: the share of the sources, 0 to 1, and their lead in nats."""
        ...

    def learn(self, lead_D: Sequence[float], taught_D: Sequence[float]) -> None:
        """After a step: sums of the leads by domain, and of how many positions."""
        ...


class GateLearns(TrainerCallback):
    """Hands the leads of every step to the gate, and keeps it in the checkpoints."""

    def __init__(self, gate: Gate, leads_of_step: Callable[[], list[list[float]]]) -> None:
        self._gate, self._leads_of_step = gate, leads_of_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        lead_D, taught_D = zip(*self._leads_of_step(), strict=True)
        self._gate.learn(lead_D, taught_D)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if rank() == 0:
            path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / GATE
            path.write_text(json.dumps(self._gate.kept), encoding="utf-8")

    def go_on_from(self, checkpoint: str | None) -> None:
        """Take the gate as it was when the checkpoint was written."""
        if checkpoint is not None:
            text = (Path(checkpoint) / GATE).read_text(encoding="utf-8")
            self._gate.kept = json.loads(text)
