"""Checkpoints of a training run under way: signed when whole, gone on from if they still are.

transformers writes them; here every one gets a receipt (infifusion.store.receipts) with the hash of
each of its files, and old ones are deleted only then, so that there is always one to go on from.
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
    """Signs a checkpoint when all processes have written theirs of it, and keeps the newest."""

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
            for old in self._found()[: -self._keep]:
                shutil.rmtree(old, ignore_errors=True)

    def last_whole(self, *, clean: bool = False) -> str | None:
        """The newest checkpoint that is as it was written. With `clean` newer ones that are not are
        deleted, and that is said."""
        for path in reversed(self._found()):
            if is_whole(path / WHOLE, lambda p=path: self._hashes(p), mark=self._mark):
                return str(path)
            if clean:
                must_be_made(
                    path / WHOLE, lambda p=path: self._hashes(p), mark=self._mark, stage=None
                )
                shutil.rmtree(path, ignore_errors=True)
        return None

    def to_go_on_from(self) -> str | None:
        """The same for all processes, which call it together: the first one looks and deletes, so
        that all go on from one checkpoint and it is read once."""
        found = [self.last_whole(clean=True) if rank() == 0 else None]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def _found(self) -> list[Path]:
        """Checkpoints by their step."""
        found = self._folder.glob("checkpoint-*")
        return sorted(found, key=lambda path: int(path.name.split("-")[1]))

    def _hashes(self, path: Path) -> Hashes:
        return hashes_of((p for p in files_in(path) if p.name != WHOLE), self._folder)
