"""Pickled weights, for those who ask for them: tensors alone, nothing that could run code."""

from __future__ import annotations

import shutil
from pathlib import Path

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.reader import INDEX, PICKLES, SINGLE, require_inside
from infifusion.merge.checkpoints.writer import temporary_model

OF_TRAINING = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
BESIDE = (".json", ".model", ".txt", ".jinja", ".py", ".tiktoken", ".bpe")


def as_safetensors(folder: Path, *, single: str = SINGLE) -> Path:
    """A folder with the same model, or adapter, as safetensors: the folder itself where it holds
    them, else a converted copy that lasts as long as this process. torch.load with
    weights_only=True: a pickle that holds anything but tensors is refused with a CheckpointError.
    single: the name of the file where there is only one."""
    require_inside(folder)
    files = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
    if (folder / INDEX).exists() or (folder / single).exists() or not files:
        return folder
    stem = single.partition(".")[0]
    if stem != "model":
        files = [path for path in files if path.stem == stem]
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for path in files:
        if path.name in OF_TRAINING:
            continue
        try:
            found = dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # torch raises many kinds for what it will not unpickle
            raise CheckpointError(
                f"{path} holds more than tensors, or is damaged ({error}); it is not opened."
            ) from error
        tensors |= {k: v.contiguous().clone() for k, v in found.items() if torch.is_tensor(v)}
    place = temporary_model("converted")
    save_file(tensors, place / single, metadata={"format": "pt"})
    for path in folder.iterdir():
        beside = path.suffix in BESIDE and path.is_file()
        if beside and not path.name.endswith(".index.json"):
            shutil.copyfile(path, place / path.name)
    return place
