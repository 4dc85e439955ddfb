"""A checkpoint under other names, and the stored name of what a model calls otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.merge.checkpoints.architecture import Architecture
from infifusion.merge.checkpoints.header import Stored
from infifusion.merge.checkpoints.reader import Checkpoint


class Renamed:
    """A checkpoint whose tensors have other names; one tensor may have several.

    origin: name -> the stored name. folder: that of the checkpoint, or the one that errors are to
    name. To be used like a `Checkpoint`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | Renamed,
        origin: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._origin = dict(origin)
        self.folder = folder or checkpoint.folder

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._origin)

    def stored(self, name: str) -> Stored:
        """What the header says of the tensor."""
        return self._checkpoint.stored(self._origin[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._checkpoint.shape(self._origin[name])

    def dtype(self, name: str) -> str:
        """The tensor's dtype as safetensors writes it, such as BF16."""
        return self._checkpoint.dtype(self._origin[name])

    def array(self, name: str) -> np.ndarray:
        """The tensor as stored, flat, read from the file when it is used; bfloat16 as uint16."""
        return self._checkpoint.array(self._origin[name])

    def read_ahead(self, name: str) -> None:
        """Ask the system to read the tensor before it is used."""
        self._checkpoint.read_ahead(self._origin[name])

    def __contains__(self, name: str) -> bool:
        return name in self._origin

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


AnyCheckpoint = Checkpoint | Renamed


def finder(
    names: Iterable[str], architecture: Callable[[], Architecture | str]
) -> Callable[[str], str | None]:
    """A function from a module's weight, as a library of today or of another year calls it, to its
    stored name: by transformers' own renamings, else by the only stored name of which it is the end
    or that is its end, from a dot on. architecture: called when it is first needed."""
    stored = list(names)
    by_own: dict[str, str] = {}

    def find(name: str) -> str | None:
        known = architecture()
        if isinstance(known, Architecture):
            if not by_own:
                for one in stored:
                    own, pattern = known.own_name(one)
                    if pattern is None:
                        by_own.setdefault(own, one)
            own, pattern = known.own_name(name)
            if pattern is None and own in by_own:
                return by_own[own]
        ends = [one for one in stored if one.endswith(f".{name}") or name.endswith(f".{one}")]
        return ends[0] if len(ends) == 1 else None

    return find


def turned(architecture: Architecture | str, own: str) -> bool | None:
    """Whether a matrix is stored [in, out], as GPT-2's Conv1D does; None where nobody knows."""
    if isinstance(architecture, str):
        return None
    try:
        module: Any = architecture.module_of(own)
    except AttributeError:
        return None
    return type(module).__name__ == "Conv1D"
