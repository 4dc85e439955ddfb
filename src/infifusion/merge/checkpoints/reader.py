"""Reading a safetensors checkpoint as memory maps. Nothing is trusted, pickles are never opened."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import STORED
from infifusion.merge.checkpoints.header import Stored, no_repeats, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")
"""The first number in a tensor's name is its layer: model.layers.3.mlp.up_proj.weight."""
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys of a config that say how many layers there are."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LARGEST_JSON = 1 << 26  # bytes that are read


class Checkpoint:
    """The tensors of one model folder, single file or sharded, by name."""

    def __init__(self, folder: Path, *, single: str = SINGLE) -> None:
        """Read and check the headers; no weight is touched. Raises CheckpointError naming the file
        that is missing, cut short, damaged, pickled or outside the folder."""
        self.folder = folder
        self._stored: dict[str, Stored] = {}
        self._maps: dict[str, mmap.mmap] = {}
        require_inside(folder)
        require_one_model(folder)
        for file in _files(folder, single):
            for name, stored in read_header(folder / file).items():
                if name in self._stored:
                    raise CheckpointError(
                        f"{folder}: the tensor {name:.200} stands in {self._stored[name].file} "
                        f"and in {file}. Save the model again with save_pretrained."
                    )
                self._stored[name] = stored
        _check_index(folder, {name: stored.file for name, stored in self._stored.items()})

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._stored)

    def stored(self, name: str) -> Stored:
        """What the header says of the tensor."""
        return self._stored[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        """The tensor's dtype as safetensors writes it, such as BF16."""
        return self._stored[name].dtype

    def array(self, name: str) -> np.ndarray:
        """The tensor as stored, flat, read from the file when it is used; bfloat16 as uint16."""
        stored = self._stored[name]
        if stored.dtype not in STORED:
            raise CheckpointError(
                f"The tensor {name} in {self.folder} is stored as {stored.dtype}, which cannot be "
                "merged. Convert the model to bfloat16."
            )
        return _flat(self._map(stored.file), stored)

    def read_ahead(self, name: str) -> None:
        """Ask the system to read the tensor before it is used."""
        stored = self._stored[name]
        if stored.size and hasattr(mmap, "MADV_WILLNEED"):
            page = stored.start - stored.start % mmap.PAGESIZE
            self._map(stored.file).madvise(mmap.MADV_WILLNEED, page, stored.stop - page)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def _map(self, file: str) -> mmap.mmap:
        if file not in self._maps:
            self._maps[file] = _mapped(self.folder / file)
        return self._maps[file]


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of one safetensors file of our own in its shape, read from the file when it is
    used. Nothing else in its folder is looked at: a cache has thousands of files in one. Raises
    CheckpointError where the file is cut short or damaged."""
    header, content = read_header(path), _mapped(path)
    return {name: _flat(content, stored).reshape(stored.shape) for name, stored in header.items()}


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _flat(content: mmap.mmap, stored: Stored) -> np.ndarray:
    """The tensor as stored; bfloat16 as uint16."""
    dtype = STORED[stored.dtype]
    if stored.size == 0:
        return np.empty(0, dtype)
    return np.frombuffer(content, dtype, count=stored.size, offset=stored.start)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON object of a model folder."""
    path = folder / name
    try:
        found = json.loads(_text_of(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.300}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object: not the config of a model.")
    return found


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def require_inside(folder: Path) -> None:
    """CheckpointError where a file of a model folder is a symbolic link that leads out of it.

    A model from a stranger could link to any file of this machine, and what is copied beside
    merged weights is made public. Links inside the folder are fine, and so are those of the Hugging
    Face cache, from models--ORG--NAME/snapshots/REVISION to models--ORG--NAME/blobs. The folder
    may itself be reached through links. Nothing where there is no such folder.
    """
    if not folder.is_dir():
        return
    home = folder.resolve()
    roots = [home]
    if home.parent.name == "snapshots":
        roots.append(home.parent.parent / "blobs")
    for path in sorted(home.iterdir()):
        target = path.resolve() if path.is_symlink() else path
        if not any(target.is_relative_to(root) for root in roots):
            raise CheckpointError(
                f"{folder / path.name} is a symbolic link to {target}, outside the model folder. "
                "A model from someone else could show any of your files that way. If the link is "
                "yours, copy the file in its place, or give the folder that it leads to."
            )


def require_one_model(folder: Path) -> None:
    """CheckpointError where a folder holds model.safetensors and an index that does not name it.

    Such a folder holds two models: transformers loads the single file, readers that begin with the
    index the shards. It comes about when one of the two was saved over the other. Nothing where
    there is no such folder, or one of the two files alone.
    """
    if not ((folder / SINGLE).is_file() and (folder / INDEX).is_file()):
        return
    named = set(_named_in_index(folder).values())
    if SINGLE in named:
        return
    missing = sorted(named - {file.name for file in folder.iterdir() if file.is_file()})
    gone = f" ({missing[0]!r:.200}, which is missing)" if missing else ""
    raise CheckpointError(
        f"{folder} holds {SINGLE} and {INDEX}, which names other files{gone}: one of the two is "
        f"left over from another model, and transformers would load {SINGLE}. Delete {SINGLE} "
        f"if the model is the one in shards, or {INDEX} and its shards if it is the one in "
        f"{SINGLE}."
    )


def _text_of(path: Path) -> str:
    """A JSON file's text; ValueError where it is larger than any model's."""
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise ValueError(f"it has {size:,} bytes; expected {LARGEST_JSON:,} at most")
    return path.read_text(encoding="utf-8")


def _files(folder: Path, single: str) -> list[str]:
    """Names of the safetensors files of a model folder."""
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no model folder {folder}. Give one with config.json and safetensors weights."
        )
    if (folder / INDEX).is_file():
        return sorted(set(_weight_map(folder).values()))
    if (folder / single).is_file():
        return [single]
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when read and "
            "are not opened. Convert them where you trust them: AutoModelForCausalLM."
            "from_pretrained(folder).save_pretrained(new_folder); or give --allow-pickle, which "
            "reads tensors alone (torch.load with weights_only=True)."
        )
    raise CheckpointError(
        f"{folder} holds neither {single} nor {INDEX}: not a model folder. Give one that "
        "save_pretrained wrote."
    )


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> file of the index, every file there."""
    here = {file.name for file in folder.iterdir() if file.is_file()}
    weight_map = _named_in_index(folder)
    for name in weight_map.values():
        if name not in here:
            raise CheckpointError(
                f"{folder / INDEX} names {name!r:.200}, which is missing. Download the model again."
            )
    return weight_map


def _named_in_index(folder: Path) -> dict[str, str]:
    """Tensor -> file of the index, every file inside the folder."""
    path = folder / INDEX
    try:
        weight_map = json.loads(_text_of(path), object_pairs_hook=no_repeats)["weight_map"]
        items = list(weight_map.items())
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error!r:.300}. Download the model again."
        ) from None
    for tensor, name in items:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{path}: the file of {tensor!r:.200} is {name!r:.200}, outside the model folder. "
                "The index is damaged or hostile; do not use it."
            )
    return weight_map


def _check_index(folder: Path, found: dict[str, str]) -> None:
    """The index, where there is one, says what the files hold."""
    if not (folder / INDEX).is_file():
        return
    expected = _weight_map(folder)
    if expected != found:
        odd = min(expected.items() ^ found.items())
        raise CheckpointError(
            f"{folder / INDEX} does not fit its files: {odd[0]!r:.200} (in {odd[1]!r:.200}). An "
            "index of another model was left behind, or a shard was replaced; download the "
            "model again."
        )
