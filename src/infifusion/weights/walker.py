"""Walking S checkpoints and their base tensor by tensor through a merge function.

Axes: S models, P elements of one parameter tensor.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from infifusion.artifacts import atomic_folder
from infifusion.errors import CheckpointError
from infifusion.runtime import progress_bar
from infifusion.weights.reader import Checkpoint
from infifusion.weights.writer import (
    DTYPES,
    SHARD_BYTES,
    Spec,
    set_config_dtype,
    write_checkpoint,
)

# base_P or None, model_SP, generator -> merged_P and details; all float32.
MergeTensor = Callable[
    [torch.Tensor | None, torch.Tensor, torch.Generator], tuple[torch.Tensor, dict[str, Any]]
]
FLOATS = {"F64", "F32", "F16", "BF16"}
TIED_HEAD = "lm_head.weight"
SIDE_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")


def merge_folders(
    models: Mapping[str, Path],
    base: Path | None,
    merge: MergeTensor,
    out: Path,
    *,
    dtype: str | None,
    seed: int,
    shard_bytes: int = SHARD_BYTES,
) -> list[dict[str, Any]]:
    """Write the merged checkpoint to the new folder `out`; returns the details of every tensor.

    Arithmetic is float32; the result has the dtype of the base (of the first model where there is
    no base), or `dtype` as safetensors names it. Config, tokenizer and chat template come from the
    same place. Tensors that are no floats must be equal everywhere. Random methods get a generator
    seeded by `seed` and the tensor's name: the same recipe gives the same bytes. The folder appears
    whole or not at all.

    Raises CheckpointError for tensors that are missing or differ in shape, and for NaN or Inf in
    an input or in the result, naming tensor and model.
    """
    donor_path = base if base is not None else next(iter(models.values()))
    opened = {name: Checkpoint(path) for name, path in models.items()}
    donor = Checkpoint(donor_path)
    checked = dict(opened) if base is None else {"the base": donor, **opened}
    names = _common_names(checked, donor)
    specs = {
        name: Spec(
            dtype if dtype and donor.dtype(name) in FLOATS else donor.dtype(name),
            donor.shape(name),
        )
        for name in names
    }
    details: list[dict[str, Any]] = []
    with atomic_folder(out) as folder:
        written = _merged(names, specs, opened, donor if base else None, merge, seed, details)
        write_checkpoint(folder, specs, written, shard_bytes=shard_bytes)
        _copy_side_files(donor_path, folder)
        if dtype:
            set_config_dtype(folder, DTYPES[dtype])
    return details


def _common_names(checked: Mapping[str, Checkpoint], donor: Checkpoint) -> list[str]:
    """The names to merge; CheckpointError when the models do not fit together."""
    tied = bool(donor.config().get("tie_word_embeddings", False))
    names = [n for n in donor.names if not (tied and n == TIED_HEAD and _lacks(checked, n))]
    for label, checkpoint in checked.items():
        extra = set(checkpoint.names) - set(names) - ({TIED_HEAD} if tied else set())
        missing = set(names) - set(checkpoint.names)
        if extra or missing:
            odd = sorted(extra or missing)[0]
            raise CheckpointError(
                f"{checkpoint.folder} ({label}) {'has' if extra else 'lacks'} the tensor {odd}, "
                f"which {donor.folder} {'lacks' if extra else 'has'}: {len(extra | missing)} names "
                "differ. Only models of one architecture can be merged."
            )
        for name in names:
            if checkpoint.shape(name) != donor.shape(name):
                raise CheckpointError(
                    f"The tensor {name} has shape {list(checkpoint.shape(name))} in "
                    f"{checkpoint.folder} ({label}), but {list(donor.shape(name))} in "
                    f"{donor.folder}. Only models of one architecture and vocabulary can be merged."
                )
            if checkpoint.dtype(name) not in DTYPES:
                raise CheckpointError(
                    f"The tensor {name} in {checkpoint.folder} is stored as "
                    f"{checkpoint.dtype(name)}, which is not merged. Convert the model to bfloat16."
                )
    return names


def _lacks(checked: Mapping[str, Checkpoint], name: str) -> bool:
    return any(name not in checkpoint for checkpoint in checked.values())


def _merged(
    names: list[str],
    specs: Mapping[str, Spec],
    models: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    merge: MergeTensor,
    seed: int,
    details: list[dict[str, Any]],
) -> Iterator[tuple[str, torch.Tensor]]:
    with progress_bar("merge (tensors)", len(names)) as progress:
        for name in names:
            stored = {label: model.tensor(name) for label, model in models.items()}
            base_tensor = None if base is None else base.tensor(name)
            first = next(iter(stored.values())) if base_tensor is None else base_tensor
            progress.advance(progress.task_ids[0])
            if not first.is_floating_point():
                yield name, _equal_everywhere(name, first, stored)
                continue
            flat = {label: _floats(name, label, value) for label, value in stored.items()}
            base_P = None if base_tensor is None else _floats(name, "the base", base_tensor)
            merged_P, found = merge(base_P, torch.stack(list(flat.values())), generator(seed, name))
            merged = merged_P.to(DTYPES[specs[name].dtype]).view(specs[name].shape)
            if not torch.isfinite(merged).all():
                raise CheckpointError(
                    f"The merged tensor {name} holds NaN or Inf as {specs[name].dtype}, though its "
                    "inputs do not: the weights or lambda are too large. Lower them."
                )
            details.append({"name": name, "numel": merged.numel(), **found})
            yield name, merged


def _equal_everywhere(
    name: str, first: torch.Tensor, stored: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    for label, value in stored.items():
        if not torch.equal(value, first):
            raise CheckpointError(
                f"The tensor {name} ({first.dtype}) differs in {label}; tensors that are no floats "
                "cannot be merged and must be equal."
            )
    return first


def _floats(name: str, label: str, value: torch.Tensor) -> torch.Tensor:
    """Flat float32; CheckpointError for NaN or Inf."""
    flat = value.reshape(-1).float()
    if not torch.isfinite(flat).all():
        bad = int((~torch.isfinite(flat)).sum())
        raise CheckpointError(
            f"The tensor {name} of {label} holds {bad} NaN or Inf of {flat.numel()} values. That "
            "checkpoint is broken; take an earlier one."
        )
    return flat


def generator(seed: int, name: str) -> torch.Generator:
    """A generator for one tensor: the same in every process and whatever the order."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def _copy_side_files(source: Path, folder: Path) -> None:
    """Config, generation config, tokenizer, chat template; not the weights' index."""
    for pattern in SIDE_FILES:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, folder / path.name)
