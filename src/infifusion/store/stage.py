"""The protocol that all stages follow, written once: a stage declares itself, `run_stage` runs it.

share    several runs that want the same result make it once (sweeps)
open     done before: nothing to do; made with other settings: an error; else begin or go on
verify   the files it reads are those that were signed
work     load them and say which parts there are
make     this process's parts, but for those that are whole by their receipts
wait     the first process, until the parts of all are whole; the others leave
finish   put the parts together and count
sign     write the manifest, last, and say in one line what was done
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infifusion.process.runtime import log, rank
from infifusion.store.artifacts import State, close_stage, open_stage, share_stage, verify_stage
from infifusion.store.folders import RunFolder
from infifusion.store.receipts import Pieces
from infifusion.store.records import Json
from infifusion.store.spread import my_part, wait_for


@dataclass(frozen=True)
class Finished:
    """What a stage has made: the files to sign, counts for the manifest, a line for the log."""

    files: Iterable[Path]
    counts: Json
    said: str


@dataclass(frozen=True)
class Parts:
    """Work that processes share: process r of n takes paths r, r + n, r + 2 n, ..."""

    paths: Sequence[Path]
    pieces: Pieces
    """Tells which parts are whole, and signs those that were made."""
    make: Callable[[list[Path]], Iterator[tuple[Path, Json]]]
    """Makes the parts that this process lacks, maybe none, and yields each when it is written, with
    what its receipt is to hold besides hashes."""


@dataclass(frozen=True)
class Work:
    """What is left to do once the inputs are loaded."""

    finish: Callable[[], Finished]
    """Called in the first process alone, when every part is whole."""
    parts: Parts | None = None


@dataclass(frozen=True)
class Stage:
    """What a stage declares."""

    title: str
    folder: Path
    fingerprint: Json
    """Everything that decides what it writes."""
    work: Callable[[], Work | Finished]
    """Called in every process once what is read has been verified."""
    reads: Sequence[Path] = ()
    """Folders of finished stages, or single files of `prepare`."""
    first_process_only: bool = False
    shared: bool = False
    """Whether other runs may use what it makes (RunFolder.shared)."""
    apart: Json | None = None
    """What else keeps shared results apart."""
    decides_nothing: tuple[str, ...] = ()
    """Fields of the fingerprint, as a.b.c, that may be others in the folder."""


def run_stage(stage: Stage, run: RunFolder) -> None:
    """Do what is not done yet of a stage.

    Raises ArtifactError where its folder was made with other settings or a file it reads is not the
    one that was signed, BusyError where another run makes the shared result, RunError where
    another process of this run has died.
    """
    if stage.shared:
        share_stage(stage.folder, stage.fingerprint, run.shared, redo=run.redo, apart=stage.apart)
    state = open_stage(stage.folder, stage.fingerprint, redo=run.redo, free=stage.decides_nothing)
    if state is State.DONE or (stage.first_process_only and rank() != 0):
        return
    started = time.monotonic()
    for path in stage.reads:
        made_by = path.relative_to(run.root).parts[0]
        if path != run.prepare and made_by == run.prepare.name:
            verify_stage(run.prepare, made_by=made_by, only=[path])
        else:
            verify_stage(path, made_by=made_by)
    made = stage.work()
    if isinstance(made, Work):
        if made.parts is not None:
            _make(made.parts)
        if rank() != 0:
            return
        if made.parts is not None:
            others = sorted({*made.parts.paths} - {*my_part(made.parts.paths)})
            wait_for(others, stage.title, there=made.parts.pieces.is_whole)
        made = made.finish()
    close_stage(
        stage.folder,
        stage.fingerprint,
        counts=made.counts,
        seconds=time.monotonic() - started,
        files=list(made.files),
    )
    log.info("%s: %s", stage.title, made.said)


def _make(parts: Parts) -> None:
    """Make and sign those of this process's parts that are not whole."""
    missing = [path for path in my_part(parts.paths) if parts.pieces.must_be_made(path)]
    for path, more in parts.make(missing):
        parts.pieces.sign(path, more)
