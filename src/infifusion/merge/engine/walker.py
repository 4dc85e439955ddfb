"""Carrying out a planned merge: tensors in any order, blocks side by side, shards whole.

What is written does not depend on the number of threads or on the order in which they work.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import ArtifactError, CheckpointError
from infifusion.merge.blocks.blocks import Parallel
from infifusion.merge.blocks.stored import encode, not_finite
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.checkpoints.renamed import AnyCheckpoint
from infifusion.merge.checkpoints.views import as_float32
from infifusion.merge.checkpoints.writer import (
    SHARD_BYTES,
    Shard,
    Spec,
    divide_into_shards,
    write_index,
)
from infifusion.merge.engine.model import Model
from infifusion.process.bar import progress_bar
from infifusion.store.durable import files_in, sync
from infifusion.store.receipts import RECEIPTS, hashes_of, must_be_made, receipt_of, sign
from infifusion.store.records import plain, read_record, signature_of, write_record

Json = dict[str, Any]
Put = Callable[[int, np.ndarray], None]
COPIED = 4_000_000  # elements at once
IDENTITY = "plan.json"  # of an unfinished folder: what is being merged, and into what files


@dataclass(frozen=True)
class Task:
    """One tensor of the result. `merge(parallel, put)` puts all its elements, as they are stored,
    and returns details for the report. `reads` names what it will read, to be read ahead."""

    spec: Spec
    merge: Callable[[Parallel, Put], Json]
    reads: tuple[tuple[AnyCheckpoint, str], ...] = ()


def carry_out(
    tasks: Mapping[str, Task],
    out: Path,
    *,
    identity: Json,
    finish: Callable[[Path, dict[str, Json]], None],
    threads: int,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the checkpoint to the new folder `out`.

    Shards are written in a hidden folder beside `out`, which `finish(folder, details of every
    tensor)` completes (config, tokenizer) and which then takes its name: `out` appears whole or not
    at all. A merge that was killed, or that lack of memory stopped, leaves the hidden folder
    behind; one with the same `identity` goes on at its last complete shard, one with another starts
    anew. A merge that its input stops removes it. Raises ArtifactError when `out` is not free.
    """
    require_free(out)
    specs = {name: task.spec for name, task in tasks.items()}
    shards = divide_into_shards(specs, shard_bytes=shard_bytes)
    out.parent.mkdir(parents=True, exist_ok=True)
    place = unfinished(out)
    with _alone(out):
        try:
            _open(place, {"identity": identity, "shards": shards, "boot": _boot()})
            details = _write_all(tasks, shards, place, threads)
            write_index(place, shards, specs)
            finish(place, details)
        except ValueError:  # the input is wrong; nothing of it is of use
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place / RECEIPTS, ignore_errors=True)
        (place / IDENTITY).unlink()
        sync(*files_in(place))
        if out.exists():
            out.rmdir()
        place.replace(out)
        sync(out)


def require_free(out: Path) -> None:
    """ArtifactError where something stands at `out`, an empty folder apart."""
    if out.is_symlink() or out.is_mount() or (out.exists() and not _is_empty_folder(out)):
        raise ArtifactError(f"{out} exists already. Give another folder, or delete this one.")


def unfinished(out: Path) -> Path:
    """The hidden folder in which `out` is made."""
    return out.parent / f".{out.name}.unfinished"


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a lock beside `out`. Raises ArtifactError when another process has it."""
    path = out.parent / f".{out.name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ArtifactError(
                f"Another process is writing {out}. Wait for it, or give another folder."
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _boot() -> str:
    """This start of the machine: what was written before a crash of it may not be on the disk."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _open(place: Path, identity: Json) -> None:
    """Make the hidden folder ready: as it was left by the same merge, or empty."""
    identity = plain(identity)
    path = place / IDENTITY
    with contextlib.suppress(ArtifactError):  # a damaged record is of no merge
        if path.exists() and read_record(path) == identity:
            return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_record(path, identity)


def _write_all(
    tasks: Mapping[str, Task], shards: Mapping[str, list[str]], place: Path, threads: int
) -> dict[str, Json]:
    """Write every shard that is not there yet; the details of all tensors, in the tasks' order."""
    details: dict[str, Json] = {}
    with (
        progress_bar("merge", len(tasks), "tensors") as meter,
        ThreadPoolExecutor(threads) as tensors,
        ThreadPoolExecutor(threads) as blocks,
    ):

        def advance(count: int = 1) -> None:
            meter.advance(count)

        mark, last = signature_of(place / IDENTITY), [*shards][-1]
        for file, names in shards.items():
            receipt, path = receipt_of(place, file), place / file
            if must_be_made(receipt, lambda p=path: hashes_of([p], place), mark=mark, stage=None):
                shard = {name: tasks[name] for name in names}
                found = _write_shard(path, shard, tensors, blocks, advance)
                if file == last:  # what is left takes no time, and reading it all again would
                    details |= plain(found)
                    continue
                sign(receipt, hashes_of([path], place), mark=mark, more={"tensors": found})
            else:
                advance(len(names))
            details |= read_record(receipt)["tensors"]
    return {name: details[name] for name in tasks}


def _write_shard(
    path: Path,
    tasks: Mapping[str, Task],
    tensors: ThreadPoolExecutor,
    blocks: ThreadPoolExecutor,
    advance: Callable[[], None],
) -> dict[str, Json]:
    """Write one file; the details of its tensors. Large tensors first, so that no thread is left
    alone with one at the end."""
    shard = Shard(path, {name: task.spec for name, task in tasks.items()})
    order = sorted(tasks, key=lambda name: -tasks[name].spec.bytes)
    ahead = iter([*order[1:], *[""] * len(order)])

    def one(name: str) -> Json:
        following = next(ahead)
        for checkpoint, read in tasks[following].reads if following else ():
            checkpoint.read_ahead(read)
        # A tensor's spans share the pool of blocks with those of other tensors.
        found = tasks[name].merge(
            lambda function, items: _spread(blocks, function, items),
            lambda first, values: shard.put(name, first, values),
        )
        advance()
        return found

    futures: dict[str, Future] = {}
    try:
        futures |= {name: tensors.submit(one, name) for name in order}
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for name in tasks:
            if futures[name] in done:
                futures[name].result()
        return {name: futures[name].result() for name in tasks}
    finally:
        # Where one failed, or the user stopped: begin no other, and let those under way end.
        for future in futures.values():
            future.cancel()
        wait(futures.values())
        shard.close()


def copying(model: Model, name: str, dtype: str) -> Callable[[Parallel, Put], Json]:
    """What a task does that copies a model's tensor into another dtype, or the same."""

    def merge(parallel: Parallel, put: Put) -> Json:
        array, stored = model.read(name)
        size = int(np.prod(model.shape(name), dtype=np.int64))
        for start in range(0, size, COPIED):
            part = array[start : min(start + COPIED, size)]
            same = stored == dtype
            values = part if same else encode(as_float32(part, stored), dtype)
            if dtype in FLOATS and not_finite(values, dtype):
                raise CheckpointError(
                    f"The tensor {name} of {model.name} holds NaN or Inf, or numbers beyond what "
                    f"{dtype} holds. Take an earlier checkpoint, or another dtype."
                )
            put(start, values)
        return {}

    return merge


def writing(values: np.ndarray, dtype: str) -> Callable[[Parallel, Put], Json]:
    """What a task does that writes an array."""

    def merge(parallel: Parallel, put: Put) -> Json:
        put(0, encode(np.ascontiguousarray(values, np.float32).reshape(-1), dtype))
        return {}

    return merge


def _spread(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """Results in order; one item is worked on here."""
    listed = list(items)
    return map(function, listed) if len(listed) < 2 else pool.map(function, listed)


def seed_of(seed: int, name: str) -> int:
    """64 bits for one tensor's draws: the same in every process and whatever the order."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def usable_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
