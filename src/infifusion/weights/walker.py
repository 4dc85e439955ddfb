"""Carrying out a planned merge: tensors in any order, blocks side by side, shards whole.

What is written does not depend on the number of threads or on the order in which they work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.artifacts import write_json
from infifusion.errors import ArtifactError
from infifusion.runtime import progress_bar
from infifusion.weights.reader import Checkpoint
from infifusion.weights.writer import SHARD_BYTES, Shard, Spec, plan_shards, write_index

Json = dict[str, Any]
Parallel = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
Put = Callable[[int, np.ndarray], None]
PLAN = "plan.json"
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Task:
    """One tensor of the result. `merge(parallel, put)` puts all its elements, as they are stored,
    and returns details for the report. `reads` names what it will read, to be read ahead."""

    spec: Spec
    merge: Callable[[Parallel, Put], Json]
    reads: tuple[tuple[Checkpoint, str], ...] = ()


def carry_out(
    tasks: Mapping[str, Task],
    out: Path,
    *,
    identity: Json,
    finish: Callable[[Path], None],
    threads: int,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Json]:
    """Write the checkpoint to the new folder `out`; returns the details of every tensor.

    Shards are written in a hidden folder beside `out`, which `finish` completes (config, tokenizer)
    and which then takes its name: `out` appears whole or not at all. A merge that was killed leaves
    the hidden folder behind; one with the same `identity` goes on at its last complete shard, one
    with another starts anew. A merge that fails removes it. Raises ArtifactError when `out` exists
    and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} exists already. Give another folder, or delete this one.")
    place = out.parent / f".{out.name}{UNFINISHED}"
    specs = {name: task.spec for name, task in tasks.items()}
    shards = plan_shards(specs, shard_bytes=shard_bytes)
    _open(place, {"identity": identity, "shards": shards})
    details: dict[str, Json] = {}
    try:
        with (
            progress_bar("merge (tensors)", len(tasks)) as progress,
            ThreadPoolExecutor(threads) as tensors,
            ThreadPoolExecutor(threads) as blocks,
        ):

            def advance() -> None:
                progress.advance(progress.task_ids[0])

            for file, names in shards.items():
                done = place / f"{file}.json"
                if not done.exists():
                    shard_tasks = {name: tasks[name] for name in names}
                    found = _write_shard(place / file, shard_tasks, tensors, blocks, advance)
                    write_json(done, found)
                details |= json.loads(done.read_text(encoding="utf-8"))
        write_index(place, shards, specs)
        finish(place)
        for file in shards:
            (place / f"{file}.json").unlink()
        (place / PLAN).unlink()
        if out.exists():
            out.rmdir()
        place.replace(out)
    except Exception:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return {name: details[name] for name in tasks}


def _open(place: Path, plan: Json) -> None:
    """Make the hidden folder ready: as it was left by the same merge, or empty."""
    plan = json.loads(json.dumps(plan, default=str))
    path = place / PLAN
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == plan:
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_json(path, plan)


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

    try:
        futures = {name: tensors.submit(one, name) for name in order}
        _first_failure(list(futures.values()))
        return {name: futures[name].result() for name in tasks}
    finally:
        shard.close()


def _first_failure(futures: list[Future]) -> None:
    """Wait for all, or raise what the first failing one raised, having stopped the others."""
    done, open_ = wait(futures, return_when=FIRST_EXCEPTION)
    failed = [future for future in done if future.exception()]
    if failed:
        for future in open_:
            future.cancel()
        wait(futures)
        failed.sort(key=futures.index)
        raise failed[0].exception()  # type: ignore[misc]


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
