"""Reading a safetensors checkpoint lazily, one tensor at a time. Pickles are never opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from infifusion.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Checkpoint:
    """The tensors of one model folder, single file or sharded, by name."""

    def __init__(self, folder: Path) -> None:
        """Open the headers. Raises CheckpointError naming the file that is missing, cut short,
        pickled or outside the folder."""
        self.folder = folder
        self._files = {}
        self._file_of: dict[str, str] = {}
        for name in _files(folder):
            opened = _open(folder / name)
            self._files[name] = opened
            for tensor in opened.keys():  # noqa: SIM118  (no dict)
                if tensor in self._file_of:
                    raise CheckpointError(
                        f"{folder}: the tensor {tensor} stands in {self._file_of[tensor]} and in "
                        f"{name}. Save the model again with save_pretrained."
                    )
                self._file_of[tensor] = name
        _check_index(folder, self._file_of)

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the header."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The tensor's dtype as safetensors writes it, such as BF16."""
        return self._slice(name).get_dtype()

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, as stored."""
        return self._files[self._file_of[name]].get_tensor(name)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def _slice(self, name: str):
        return self._files[self._file_of[name]].get_slice(name)

    def config(self) -> dict:
        """config.json of the folder."""
        path = self.folder / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from None


def _files(folder: Path) -> list[str]:
    """Names of the safetensors files of a model folder."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no model folder {folder}.")
    if (folder / INDEX).is_file():
        return sorted(set(_weight_map(folder).values()))
    if (folder / SINGLE).is_file():
        return [SINGLE]
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when read and "
            "are not opened. Convert them where you trust them: AutoModelForCausalLM."
            "from_pretrained(folder).save_pretrained(new_folder)."
        )
    raise CheckpointError(f"{folder} holds neither {SINGLE} nor {INDEX}: not a model folder.")


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> file of the index, every file inside the folder."""
    path = folder / INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        items = list(weight_map.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}. Download the model again.") from None
    for tensor, name in items:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{path}: the file of {tensor} is {name!r}, outside the model folder. The index is "
                "damaged or hostile; do not use it."
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{path} names {name}, which is missing. Download the model again."
            )
    return weight_map


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        expected = _expected_bytes(path)
        should = "" if expected is None else f"its header announces {expected} bytes; "
        raise CheckpointError(
            f"{path} is no whole safetensors file: {should}it has {path.stat().st_size} bytes "
            f"({error}). It was cut short or damaged; copy it again."
        ) from error


def _expected_bytes(path: Path) -> int | None:
    """The size that the file's header announces; None where the header itself is damaged."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # safetensors itself refuses headers of more than 100 MB.
            header = json.loads(file.read(length)) if length <= 100_000_000 else {}
        ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        return 8 + length + max(ends)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, IndexError):
        return None


def _check_index(folder: Path, found: dict[str, str]) -> None:
    """The index, where there is one, says what the files hold."""
    if not (folder / INDEX).is_file():
        return
    expected = _weight_map(folder)
    if expected != found:
        odd = sorted(expected.items() ^ found.items())[0]
        raise CheckpointError(
            f"{folder / INDEX} does not fit its files: {odd[0]} (in {odd[1]}). An index of another "
            "model was left behind, or a shard was replaced; download the model again."
        )
