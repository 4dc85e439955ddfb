"""LoRA adapters: W + scale B A, computed for the rows that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

import numpy as np

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.reader import Checkpoint, read_config
from infifusion.merge.checkpoints.views import as_float32

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
LARGEST = 1e30


class Adapter:
    """The low-rank changes of one adapter folder, by the name of the tensor they change."""

    def __init__(self, folder: Path, model: Checkpoint) -> None:
        """Raises CheckpointError for adapters of another kind or for another model."""
        self.folder = folder
        config = read_config(folder, CONFIG)
        odd = [
            key
            for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")
            if config.get(key)
        ]
        if config.get("peft_type") != "LORA" or odd:
            found = odd[0] if odd else config.get("peft_type")
            raise CheckpointError(
                f"{folder}: only plain LoRA adapters are merged; found {found!r:.100}. Merge it "
                "into its model with peft (merge_and_unload) and give that folder."
            )
        rank, alpha = config.get("r"), config.get("lora_alpha")
        if not _is_number(rank) or not _is_number(alpha) or rank != int(rank) or rank < 1:
            raise CheckpointError(
                f"{folder / CONFIG}: r is {rank!r:.100} and lora_alpha {alpha!r:.100}; expected a "
                "whole number from 1 on, and a number."
            )
        self._scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        self._transposed = bool(config.get("fan_in_fan_out", False))
        self._weights = Checkpoint(folder, single=WEIGHTS)
        targets = [(self._target(name, model), name) for name in self._weights.names]
        self.changed = {t: name for t, name in targets if name.endswith(".lora_A.weight")}
        for name in self.changed.values():
            if name.replace(".lora_A.", ".lora_B.") not in self._weights:
                raise CheckpointError(f"{folder} has {name}, but not the B that belongs to it.")

    def _target(self, name: str, model: Checkpoint) -> str:
        module, _, kind = name.removeprefix(PREFIX).rpartition(".lora_")
        if not module or kind not in ("A.weight", "B.weight"):
            raise CheckpointError(
                f"{self.folder}: the tensor {name} is no LoRA matrix. Merge the adapter into its "
                "model with peft (merge_and_unload) and give that folder."
            )
        target = f"{module}.weight"
        if target not in model:
            raise CheckpointError(
                f"{self.folder} changes {target}, which {model.folder} does not have. The adapter "
                "belongs to another model."
            )
        return target

    def factors(self, tensor: str) -> tuple[np.ndarray, np.ndarray]:
        """B scale [M, rank] and A [rank, C], float32; B A scale is added to the tensor [M, C]."""
        name = self.changed[tensor]
        a = self._float(name)
        b = self._float(name.replace(".lora_A.", ".lora_B.")) * np.float32(self._scale)
        return (a.T, b.T) if self._transposed else (b, a)

    def _float(self, name: str) -> np.ndarray:
        values = as_float32(self._weights.array(name), self._weights.dtype(name))
        return values.reshape(self._weights.shape(name))


def _is_number(value: object) -> TypeGuard[int | float]:
    """A number that float32 can hold."""
    return type(value) in (int, float) and abs(value) < LARGEST  # pyright: ignore
