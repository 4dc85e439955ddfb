"""LoRA adapters: W + scale B A, computed for the rows that are asked for, and whole tensors that an
adapter brings along (modules_to_save, biases, embeddings with more rows)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.checkpoints.lora_config import LoraSettings, read_lora_config
from infifusion.merge.checkpoints.reader import Checkpoint
from infifusion.merge.checkpoints.views import WithLowRank, as_float32

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# module, and which of its matrices; PEFT writes base_layer where the embedding was saved as well.
MATRIX = re.compile(r"^(.+)\.lora_(?:embedding_)?([AB])(?:\.default)?(?:\.weight)?$")
SAVED = re.compile(r"^(.+?)(?:\.(?:base_layer|modules_to_save(?:\.default)?|original_module))?"
                   r"\.(weight|bias)$")  # fmt: skip


class Tensors(Protocol):
    """What an adapter has to know of the model that it changes."""

    folder: Path

    def __contains__(self, name: str) -> bool: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...


@dataclass(frozen=True)
class Change:
    """What is done to one tensor. saved: the adapter's tensor that takes its place; a, b: its
    matrices; transposed: whether the model stores [in, out]."""

    saved: str | None = None
    a: str | None = None
    b: str | None = None
    scale: float = 1.0
    transposed: bool = False


class Adapter:
    """The changes of one adapter folder, by the stored name of the tensor they change."""

    def __init__(
        self,
        folder: Path,
        model: Tensors,
        *,
        find: Callable[[str], str | None] = lambda name: None,
        stored_transposed: Callable[[str], bool | None] = lambda name: None,
        settings: LoraSettings | None = None,
        weights: Checkpoint | None = None,
    ) -> None:
        """find: the stored tensor that a module's weight is called in the model; None where it has
        none. stored_transposed: whether a stored matrix is [in, out]; None where that is not known.

        Raises CheckpointError for adapters of another kind or for another model, for matrices that
        do not fit, for NaN, and where a tensor that would change is not stored as a float.
        """
        self.folder = folder
        self.settings = settings or read_lora_config(folder)
        self._model, self._find = model, find
        self._weights = weights or Checkpoint(folder, single=WEIGHTS)
        self._stored_transposed = stored_transposed
        self.changed: dict[str, Change] = {}
        for name in self._weights.names:
            self._add(name)
        for target, change in self.changed.items():
            self._check(target, change)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape with the adapter."""
        change = self.changed.get(tensor)
        return self._weights.shape(change.saved) if change and change.saved else self._shape(tensor)

    def apply(self, tensor: str, array: Any, dtype: str) -> tuple[Any, str]:
        """The tensor with its change: flat array or view, and the dtype of what it gives."""
        change = self.changed.get(tensor)
        if change is None:
            return array, dtype
        if change.saved is not None:
            array, dtype = self._weights.array(change.saved), self._weights.dtype(change.saved)
        if change.a is None or change.b is None:
            return array, dtype
        left, right = self._factors(change)
        return WithLowRank(array, dtype, left, right), "F32"

    def _add(self, name: str) -> None:
        bare = name.replace("_orig_mod.", "").removeprefix(PREFIX)
        if matrix := MATRIX.match(bare):
            module, kind = matrix[1].replace(".base_layer", ""), matrix[2]
            target = self._target(f"{module}.weight")
            change = self.changed.get(target, Change())
            if change.a if kind == "A" else change.b:
                raise CheckpointError(f"{self.folder}: two matrices {kind} change {target}.")
            change = replace(change, scale=self.settings.scale_of(module))
            self.changed[target] = replace(change, **{kind.lower(): name})
        elif saved := SAVED.match(bare):
            target = self._target(f"{saved[1]}.{saved[2]}")
            self.changed[target] = replace(self.changed.get(target, Change()), saved=name)
        else:
            raise CheckpointError(
                f"{self.folder}: the tensor {name} is no LoRA matrix. Merge the adapter into its "
                "model with peft (merge_and_unload) and give that folder."
            )

    def _target(self, name: str) -> str:
        found = name if name in self._model else self._find(name)
        if found is None:
            raise CheckpointError(
                f"{self.folder} changes {name}, which {self._model.folder} does not have under "
                "this or another name. The adapter was trained on "
                f"{self.settings.base} (base_model_name_or_path in its adapter_config.json): give "
                "that model, or one of its architecture."
            )
        return found

    def _shape(self, tensor: str) -> tuple[int, ...]:
        return self._model.shape(tensor)

    def _check(self, target: str, change: Change) -> None:
        stored = self._model.dtype(target)
        if stored not in FLOATS:
            raise CheckpointError(
                f"{self.folder} changes {target}, which {self._model.folder} stores as {stored}: "
                "quantised weights cannot take an adapter. Give the model in bfloat16 or float16."
            )
        for name in (change.saved, change.a, change.b):
            if name is not None and not np.isfinite(self._float(name)).all():
                raise CheckpointError(
                    f"{self.folder}: the adapter's tensor {name} holds NaN or Inf. That adapter is "
                    "broken; take an earlier checkpoint of it."
                )
        shape = self.shape(target)
        if change.a is None and change.b is None:
            theirs = self._shape(target)
            if shape[1:] != theirs[1:] or len(shape) != len(theirs):
                raise self._misfit(target, shape, theirs)
            return
        if change.a is None or change.b is None:
            has, lacks = ("A", "B") if change.a else ("B", "A")
            raise CheckpointError(
                f"{self.folder} has {change.a or change.b} ({has}), but not the {lacks} that "
                "belongs to it."
            )
        self._check_ranks(target, change)
        left, right = self._oriented(target, change, shape)
        if (left, right) != shape:
            raise self._misfit(target, (left, right), shape)

    def _check_ranks(self, target: str, change: Change) -> None:
        assert change.a is not None and change.b is not None
        a, b = self._weights.shape(change.a), self._weights.shape(change.b)
        if 0 in (*a, *b):
            raise CheckpointError(
                f"{self.folder}: {change.a} is {list(a)} and {change.b} {list(b)}: without values. "
                "The adapter was saved while its weights were divided among processes (ZeRO-3, "
                "FSDP); gather them and save it again."
            )
        said = self.settings.rank_of(MATRIX.match(change.a.removeprefix(PREFIX))[1])  # type: ignore[index]
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] != said:
            raise CheckpointError(
                f"{self.folder}: {change.a} is {list(a)} and {change.b} {list(b)}, but "
                f"{self.settings.path.name} says rank {said} for {target}: the scale would be "
                "wrong. Config and weights are of two adapters, or rank_pattern is missing; save "
                "the adapter again."
            )

    def _oriented(self, target: str, change: Change, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the change as the model stores the tensor; notes which way."""
        assert change.a is not None and change.b is not None
        out, inner = self._weights.shape(change.b)[0], self._weights.shape(change.a)[1]
        if "lora_embedding_" in change.a:  # A [rank, tokens], B [width, rank]
            turned = True
        elif out != inner:
            turned = (inner, out) == shape
        else:
            known = self._stored_transposed(target)
            turned = self.settings.transposed if known is None else known
        self.changed[target] = replace(change, transposed=turned)
        return (inner, out) if turned else (out, inner)

    def _misfit(self, target: str, found: tuple, stored: tuple) -> CheckpointError:
        return CheckpointError(
            f"{self.folder} changes {target} by {list(found)}, but {self._model.folder} has it as "
            f"{list(stored)}. Give the model that the adapter was trained on: "
            f"{self.settings.base} (base_model_name_or_path in its adapter_config.json)."
        )

    def _factors(self, change: Change) -> tuple[np.ndarray, np.ndarray]:
        """B scale [M, rank] and A [rank, C], float32; B A scale is added to the tensor [M, C]."""
        assert change.a is not None and change.b is not None
        a = self._float(change.a)
        b = self._float(change.b) * np.float32(change.scale)
        return (a.T, b.T) if change.transposed else (b, a)

    def _float(self, name: str) -> np.ndarray:
        values = as_float32(self._weights.array(name), self._weights.dtype(name))
        return values.reshape(self._weights.shape(name))
