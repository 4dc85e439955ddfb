"""Pickled weights, for those who ask for them: tensors alone, nothing that could run code."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.reader import INDEX, PICKLES, SINGLE, require_inside


def as_safetensors(folder: Path) -> Path:
    """A folder with the same model as safetensors: the folder itself where it holds them, else a
    converted copy that lasts as long as this process. torch.load with weights_only=True: a pickle
    that holds anything but tensors is refused with a CheckpointError."""
    require_inside(folder)
    files = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
    if (folder / INDEX).exists() or (folder / SINGLE).exists() or not files:
        return folder
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for path in files:
        if path.name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            continue
        try:
            found = dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # torch raises many kinds for what it will not unpickle
            raise CheckpointError(
                f"{path} holds more than tensors, or is damaged ({error}); it is not opened."
            ) from error
        tensors |= {k: v.contiguous().clone() for k, v in found.items() if torch.is_tensor(v)}
    place = Path(tempfile.mkdtemp(prefix="infifusion-converted-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    save_file(tensors, place / SINGLE, metadata={"format": "pt"})
    for path in folder.iterdir():
        beside = path.suffix in (".json", ".model", ".txt", ".jinja") and path.is_file()
        if beside and not path.name.endswith(".index.json"):
            shutil.copyfile(path, place / path.name)
    return place
