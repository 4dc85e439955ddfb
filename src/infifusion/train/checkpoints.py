"""Checkpoints of a training run that is under way.

transformers writes them. Here every one gets a receipt (infifusion.store.receipts) with the hash of
each of its files, so that a run resumes only from one that is as it was written. Old ones are
deleted after the newer one has its receipt: there is always one to resume from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from infifusion.process.runtime import rank
from infifusion.store.durable import files_in, sync
from infifusion.store.receipts import Hashes, hashes_of, is_whole, must_be_made, sign

WHOLE = "whole.json"
"""The receipt of a checkpoint, written last into it."""


class Checkpoints(TrainerCallback):
    """Signs a checkpoint when all processes have written theirs of it, and keeps the newest; and
    the best, where that is the one to be taken at the end."""

    def __init__(self, folder: Path, mark: str, keep: int | None) -> None:
        """mark tells this training run from others; keep: how many, None for all."""
        self._folder, self._mark, self._keep = folder, mark, keep

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
        if not state.is_world_process_zero:
            return
        path = self._folder / f"checkpoint-{state.global_step}"
        # On the disk before it is signed, so that a loss of power leaves no signature without it.
        sync(*files_in(path))
        sign(path / WHOLE, self._hashes(path), mark=self._mark)
        sync(path)
        if self._keep:
            best = state.best_model_checkpoint if args.load_best_model_at_end else None
            for old in self._all()[: -self._keep]:
                if best is None or old.name != Path(best).name:
                    shutil.rmtree(old, ignore_errors=True)

    def last_whole(self, *, clean: bool = False) -> str | None:
        """The newest checkpoint that is as it was written; None where there is none. With `clean`
        newer ones that are damaged are deleted, with a line in the log."""
        for path in reversed(self._all()):
            if is_whole(path / WHOLE, lambda p=path: self._hashes(p), mark=self._mark):
                return str(path)
            if clean:
                must_be_made(
                    path / WHOLE, lambda p=path: self._hashes(p), mark=self._mark, stage=None
                )
                shutil.rmtree(path, ignore_errors=True)
        return None

    def to_go_on_from(self) -> str | None:
        """`last_whole` for all processes, which call this together: the first one reads and
        deletes, so that all resume from the same checkpoint and it is read once."""
        newest = [self.last_whole(clean=True) if rank() == 0 else None]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(newest, src=0)
        return newest[0]

    def _all(self) -> list[Path]:
        """Checkpoints by their step."""
        paths = self._folder.glob("checkpoint-*")
        return sorted(paths, key=lambda path: int(path.name.split("-")[1]))

    def _hashes(self, path: Path) -> Hashes:
        return hashes_of((p for p in files_in(path) if p.name != WHOLE), self._folder)
