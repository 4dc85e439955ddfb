"""The named points of a run: every step of every write into the run folder.

`watch` wraps, in a forked child, what makes a file durable: opening, the libraries' writers, fsync,
rename, remove. A point is named by the step and the file, such as `rename prepare/train.jsonl`; the
child ends itself by SIGKILL at the first point whose name it has not been told.

With `power` the machine is taken to lose power there: what was written but never synced is emptied,
and a rename whose folder was not synced has not happened.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

OCCURRENCES = 2
"""So many calls with one name are points of their own (the parts of a merged shard, say)."""

RANDOM = re.compile(r"(?<=\.)[a-z0-9_]{8}(?=\.tmp|/|$)")
"""What tempfile puts into a name."""


class Points:
    """What one child passes. told: names that were used up; pipe: where the new one is said."""

    def __init__(self, root: Path, told: set[str], pipe: int, *, power: bool) -> None:
        self._root, self._told, self._pipe = str(root) + "/", told, pipe
        self._power = power
        self._counts: Counter[str] = Counter()
        self._unsynced: set[str] = set()
        self._renamed: list[tuple[str, str]] = []
        self._ended = False
        self._one = threading.RLock()  # at a time, of the threads of the child

    def pass_by(self, step: str, path: str, *, torn: bool = False) -> None:
        """End here, unless this point was told. torn: half of the file is lost."""
        if self._ended or not path.startswith(self._root):
            return
        name = _alike(f"{step} {RANDOM.sub('*', path.removeprefix(self._root))}")
        with self._one:
            self._counts[name] += 1
            name = f"{name} {min(self._counts[name], OCCURRENCES)}"
            if self._ended or name in self._told:
                return
            self._ended = True
            if torn:
                os.truncate(path, os.path.getsize(path) // 2)
            if self._power:
                self._lose()
            os.write(self._pipe, name.encode() + b"\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        for old, new in reversed(self._renamed):
            with contextlib.suppress(OSError):
                os.rename(new, old)
                self._moved(new, old)
        for path in self._unsynced:
            with contextlib.suppress(OSError):
                os.truncate(path, 0)

    def wrote(self, path: str) -> None:
        """The file holds what is not on the disk yet."""
        if path.startswith(self._root):
            with self._one:
                self._unsynced.add(path)

    def synced(self, path: str) -> None:
        """The file, or the entries of the folder, are on the disk."""
        with self._one:
            self._unsynced.discard(path)
            self._renamed = [pair for pair in self._renamed if os.path.dirname(pair[1]) != path]

    def _moved(self, old: str, new: str) -> None:
        self._unsynced = {
            new + path[len(old) :] if path == old or path.startswith(old + "/") else path
            for path in self._unsynced
        }

    def renamed(self, old: str, new: str, *, replaced: bool) -> None:
        """A file or folder has another name. One that replaced another is not taken back."""
        with self._one:
            self._moved(old, new)
            if new.startswith(self._root) and not replaced:
                self._renamed.append((old, new))


def _alike(name: str) -> str:
    """One name for sources, for targets, for models, for shards and for steps of training."""
    name = re.sub(r"(teach|fuse|distill|evaluate)/[^/ ]+", r"\1/*", name)
    name = re.sub(r"rendered/[^/ ]+", "rendered/*", name)
    name = re.sub(r"distill/\*/model/.*", "distill/*/model/*", name)
    return re.sub(r"\d+", "*", name)


def watch(points: Points) -> None:
    """Wrap the steps of writing, in this process, from now on."""
    import numpy as np
    import safetensors.numpy
    import safetensors.torch
    import torch

    sys.addaudithook(lambda event, arguments: _audit(points, event, arguments))
    os.fsync = _fsync(points, os.fsync)
    os.replace, os.rename = _rename(points, os.replace), _rename(points, os.rename)
    os.pwrite = _pwrite(points, os.pwrite)
    np.memmap.flush = _flush(points, np.memmap.flush)
    for module in (safetensors.numpy, safetensors.torch):
        module.serialize_file = _saves(points, "serialize", module.serialize_file, place=1)
    torch.save = _saves(points, "torch.save", torch.save, place=1)


def _audit(points: Points, event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, mode, flags = arguments
        writes = mode is not None and any(kind in mode for kind in "wax+")
        writes = writes or (mode is None and flags & (os.O_WRONLY | os.O_RDWR))
        if writes and isinstance(path, (str, bytes)):
            points.pass_by("open", os.fsdecode(path))
            if flags & (os.O_TRUNC | os.O_CREAT):  # not the arrays that are mapped and flushed
                points.wrote(os.fsdecode(path))
    elif event in ("os.remove", "os.rmdir", "os.mkdir"):
        path = os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else ""
        folder = arguments[-1]
        if isinstance(folder, int) and folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        points.pass_by(event.removeprefix("os."), path)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _fsync(points: Points, real: Callable[[int], None]) -> Callable[[int], None]:
    def fsync(descriptor: int) -> None:
        path = _path_of(descriptor)
        points.pass_by("fsync", path)
        real(descriptor)
        points.synced(path)

    return fsync


def _rename(points: Points, real: Callable[..., None]) -> Callable[..., None]:
    def rename(source: Any, target: Any, **keywords: Any) -> None:
        old, new = os.path.abspath(os.fsdecode(source)), os.path.abspath(os.fsdecode(target))
        points.pass_by("before rename to", new)
        replaced = os.path.exists(new)
        real(source, target, **keywords)
        points.renamed(old, new, replaced=replaced)
        points.pass_by("after rename to", new)

    return rename


def _pwrite(points: Points, real: Callable[..., int]) -> Callable[..., int]:
    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        path = _path_of(descriptor)
        points.pass_by("write into", path)
        written = real(descriptor, data, offset)
        points.wrote(path)
        return written

    return pwrite


def _flush(points: Points, real: Callable[[Any], None]) -> Callable[[Any], None]:
    def flush(array: Any) -> None:
        if array.filename is None:
            return real(array)
        path = os.path.abspath(array.filename)
        points.pass_by("flush", path)
        real(array)
        points.synced(path)

    return flush


def _saves(
    points: Points, step: str, real: Callable[..., Any], *, place: int
) -> Callable[..., Any]:
    """A library's writer, whose file is its argument number `place`."""

    def save(*arguments: Any, **keywords: Any) -> Any:
        found = arguments[place] if len(arguments) > place else keywords.get("filename", "")
        path = os.path.abspath(os.fsdecode(found)) if isinstance(found, (str, Path)) else ""
        points.pass_by(f"before {step}", path)
        value = real(*arguments, **keywords)
        points.wrote(path)
        points.pass_by(f"half of {step}", path, torn=True)
        points.pass_by(f"after {step}", path)
        return value

    return save
