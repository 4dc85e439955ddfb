"""Stage folders on disk: when a stage is finished, when it may go on, how it is signed.

A stage folder is finished when, and only when, it holds `manifest.json`, which is written last: the
fingerprint (everything that decides what the stage writes), counts of what was done and left out,
seconds, SHA-256 and size of every file, and a checksum of itself. While a stage is under way, its
fingerprint lies in `started.json`, with a checksum, too.

Fingerprints are written redacted (infifusion.process.redact), with a hash of what they were; two
are the same when either is, so another home folder, or another token in the environment, makes no
other run. Opening a folder:

    same fingerprint, manifest        done: skip
    same fingerprint, no manifest     resume: the stage goes on from what is complete
    other fingerprint                 ArtifactError that lists the fields that differ; with redo the
                                      folder is deleted and the stage made anew
    done, but files are damaged       ArtifactError that names them; with redo the stage is opened
                                      again without them

At every start the files of a finished folder must be there and have their sizes; before a stage
reads files of another, their SHA-256 is compared (`verify_files`). What a manifest lists is synced
to the disk before the manifest is written, so neither a killed process nor a loss of power leaves a
manifest without its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infifusion.errors import ArtifactError, RunError
from infifusion.process.runtime import log, rank
from infifusion.store.durable import remove_leftovers, sync, temporary_folder
from infifusion.store.hashes import damage, sha256_of, sha256_of_text, wrong_size
from infifusion.store.lock import claim, lost
from infifusion.store.records import (
    Json,
    damaged,
    differing_fields,
    plain,
    read_record,
    without,
    write_record,
)

MANIFEST = "manifest.json"
STARTED = "started.json"
EXACT = "fingerprint_sha256"
SIGNED = {"fingerprint", EXACT, "counts", "seconds", "files", "bytes"}
"""What a manifest holds."""
REDO = "Run again with --redo, which makes anew what is damaged and what follows from it."
LOOK_EVERY = 0.2  # seconds
SCRATCH = ("checkpoints", "done", "parts")
"""Folders that hold work under way; they are deleted once the stage has its manifest."""


class State(StrEnum):
    """What `open_stage` found."""

    DONE = "done"
    RESUME = "resume"
    FRESH = "fresh"


def open_stage(
    folder: Path, fingerprint: Json, *, redo: bool = False, free: Sequence[str] = ()
) -> State:
    """Make `folder` ready for a stage with this fingerprint, or say that it is done.

    Raises ArtifactError when the folder has another fingerprint, naming what differs, and when a
    file of a finished stage is missing or has another size. With `redo` the first process deletes
    such a folder, or the damaged files of a finished one (the hash of every file is then compared);
    the other processes wait until it has. free: fields, as a.b.c, that may differ.
    """
    while redo and (reason := _unfit(folder, fingerprint, free)):
        if rank() != 0:
            if why := lost():
                raise RunError(why)
            time.sleep(LOOK_EVERY)
        elif reason.damaged is None:
            log.info("redo: %s was made with other settings (%s)", folder, reason.text)
            with temporary_folder(folder) as gone:
                folder.replace(gone / "stale")  # at once, so that no process sees half of it
        else:
            log.info("redo: %s", reason.text)
            write_record(folder / STARTED, _named(fingerprint))
            for name in (MANIFEST, *reason.damaged):
                (folder / name).unlink(missing_ok=True)
    if differences := _differences(folder, fingerprint, free):
        listed = "\n".join(f"  {line}" for line in differences)
        raise ArtifactError(
            f"{folder} was made with other settings:\n{listed}\nGive another --run-dir, undo the "
            "change, or add --redo, which deletes this stage and those that follow from it and "
            "makes them anew."
        )
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder, made_by=folder.name)
        for name in manifest["files"]:
            if problem := wrong_size(folder, manifest, name):
                raise ArtifactError(f"{problem} {REDO}")
        if rank() == 0:
            _tidy(folder)
        return State.DONE
    if (folder / STARTED).exists():
        return State.RESUME
    folder.resolve().mkdir(parents=True, exist_ok=True)  # a link may lead to what is gone
    write_record(folder / STARTED, _named(fingerprint))
    return State.FRESH


def is_done(folder: Path, fingerprint: Json) -> bool:
    """Whether `open_stage` would find the stage done with this fingerprint, its files apart."""
    return (folder / MANIFEST).exists() and not _differences(folder, fingerprint)


@dataclass(frozen=True)
class _Unfit:
    """Why a stage cannot go on from its folder. damaged: the damaged files, or None where it was
    made with other settings."""

    text: str
    damaged: list[str] | None


def _unfit(folder: Path, fingerprint: Json, free: Sequence[str]) -> _Unfit | None:
    """What --redo has to make anew in this folder, if anything. Reads every file of a finished
    stage."""
    try:
        if differences := _differences(folder, fingerprint, free):
            return _Unfit("; ".join(differences), None)
        if not (folder / MANIFEST).exists():
            return None
        manifest = read_manifest(folder, made_by=folder.name)
    except ArtifactError as error:
        return _Unfit(str(error), [])
    bad = [name for name in manifest["files"] if damage(folder, manifest, name)]
    return _Unfit(f"{folder / bad[0]} is damaged", bad) if bad else None


def share_stage(
    folder: Path,
    fingerprint: Json,
    shared: Path | None,
    *,
    redo: bool = False,
    apart: Json | None = None,
) -> None:
    """Make `folder` a link to the place of this fingerprint in the folder `shared`, so that runs
    that want the same result make it once, under whatever name.

    An existing folder stays; with `redo`, a link to another place is replaced. Unless the place is
    finished, this process claims it (infifusion.store.lock.claim), which raises BusyError where
    another one has. apart: values that, with the fingerprint, tell places apart.
    """
    if shared is None:
        # A run folder of a sweep by itself: where its link leads, others may work, too.
        if rank() == 0 and folder.is_symlink() and not (folder / MANIFEST).exists():
            claim(folder.resolve())
        return
    text = json.dumps(plain({**fingerprint, **(apart or {})}), sort_keys=True)
    place = shared.resolve() / f"{folder.parent.name}-{sha256_of_text(text)[:16]}"
    unfinished = folder.exists() and not (folder / MANIFEST).exists()
    if redo or unfinished or not (place / MANIFEST).exists():
        claim(place)
        remove_leftovers(place)
    gone = not folder.exists()  # what it leads to, where it is a link
    if folder.is_symlink() and (gone or (redo and folder.resolve() != place)):
        folder.unlink()
    if not folder.exists():
        place.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(os.path.relpath(place, folder.parent.resolve()))


def differences_to(record: Json, fingerprint: Json, free: Sequence[str] = ()) -> list[str]:
    """Sentences for the fields in which the fingerprint in a manifest differs from this one, but
    for those that are free."""
    if record.get(EXACT) == _named(fingerprint)[EXACT]:
        return []
    found, wanted = plain(record.get("fingerprint", {})), plain(fingerprint)
    return differing_fields(without(found, free), without(wanted, free))


def _differences(folder: Path, fingerprint: Json, free: Sequence[str] = ()) -> list[str]:
    """What differs between the fingerprint and the one that lies in the folder, if one does."""
    for name in (MANIFEST, STARTED, MANIFEST):  # again: it may have been signed in between
        with contextlib.suppress(FileNotFoundError):
            return differences_to(read_record(folder / name), fingerprint, free)
    return []


def _named(fingerprint: Json) -> Json:
    """What is written of a fingerprint: redacted, and a hash of it as it is."""
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    return {"fingerprint": fingerprint, EXACT: sha256_of_text(text)}


def close_stage(
    folder: Path, fingerprint: Json, *, counts: Json, seconds: float, files: list[Path]
) -> None:
    """Finish the stage: write the manifest, last, with hash and size of every file in `files`.

    Raises RunError where the folder is not the one that `open_stage` made ready: it was deleted, or
    its disk is not mounted any more, and what lies there now was written since.
    """
    if not any((folder / name).exists() for name in (STARTED, MANIFEST)):
        raise RunError(
            f"{folder} vanished while the stage was under way (deleted, moved, or its disk is not "
            "mounted any more). Bring it back, or delete what is left of it, and run again."
        )
    sync(*files)
    named = {str(path.relative_to(folder)): path for path in sorted(files)}
    write_record(
        folder / MANIFEST,
        {
            **_named(fingerprint),
            "counts": counts,
            "seconds": round(seconds, 3),
            "files": {name: sha256_of(path) for name, path in named.items()},
            "bytes": {name: path.stat().st_size for name, path in named.items()},
        },
    )
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Remove what a signed stage needs no more."""
    (folder / STARTED).unlink(missing_ok=True)
    for name in SCRATCH:
        shutil.rmtree(folder / name, ignore_errors=True)


def read_manifest(folder: Path, *, made_by: str) -> Json:
    """The manifest of a finished stage; ArtifactError when the stage is not finished."""
    path = folder / MANIFEST
    try:
        manifest = read_record(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder} holds no {MANIFEST}: the stage '{made_by}' is not finished there. Run "
            "`infifusion run` on the recipe again; it goes on where it stopped."
        ) from None
    if not manifest.keys() >= SIGNED:
        raise damaged(path, f"it lacks {', '.join(sorted(SIGNED - manifest.keys()))}")
    return manifest


def verify_files(folder: Path, manifest: Json, *, only: Iterable[Path] | None = None) -> None:
    """Compare files with their hashes in the manifest: all of them, or `only` these paths.

    Raises ArtifactError that names the first one that differs.
    """
    names = manifest["files"] if only is None else [str(p.relative_to(folder)) for p in only]
    for name in names:
        if name not in manifest["files"]:
            raise ArtifactError(f"{folder / MANIFEST} does not vouch for {name}. {REDO}")
        if problem := damage(folder, manifest, name):
            raise ArtifactError(f"{problem} {REDO}")


def verify_stage(folder: Path, *, made_by: str, only: Iterable[Path] | None = None) -> None:
    """As `verify_files`, by the manifest in the folder; ArtifactError where there is none."""
    verify_files(folder, read_manifest(folder, made_by=made_by), only=only)


def cache_folder() -> Path:
    """Where what can be made again is kept: $INFIFUSION_CACHE, else the user's cache folder."""
    own = os.environ.get("INFIFUSION_CACHE")
    return Path(own) if own else user_cache()


def user_cache() -> Path:
    """The same where INFIFUSION_CACHE is not set: $XDG_CACHE_HOME/infifusion, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infifusion"
