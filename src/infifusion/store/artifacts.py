"""Run folders on disk: what a finished stage looks like, and when a stage may go on.

A stage folder is finished when, and only when, it holds `manifest.json`, which is written last.
The manifest holds the fingerprint (everything that decides what the stage writes), the counts of
what was done and ignored, the seconds it took, SHA-256 and size of every file it vouches for, and a
signature of itself. While a stage is under way its fingerprint lies in `started.json`, signed too,
so that another recipe cannot go on from it. Fingerprints are written redacted
(infifusion.process.redact), with a hash of what they were: two are the same by either, so that
another home folder, or another token in the environment, makes no other run. The rules of opening
a folder:

    same fingerprint, manifest        done: skip
    same fingerprint, no manifest     resume: the stage goes on from what is complete
    other fingerprint                 ArtifactError that lists the fields that differ; or, where
                                      asked, the folder is deleted and the stage made anew
    done, but files are damaged       ArtifactError that names them; or, where asked, the stage is
                                      opened again without them

Damage: at every start a finished folder's files must be there and as long as they were; a stage
that reads files of another compares their SHA-256 first (`verify_files`), once per process.

What a manifest vouches for is on the disk before the manifest is: files and their folders are
synced, so that neither a killed process nor a loss of power leaves a signature without its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infifusion.errors import ArtifactError, RunError
from infifusion.process.runtime import log, rank
from infifusion.store.durable import remove_leftovers, sync, temporary_folder
from infifusion.store.hashes import damage, sha256_of, sha256_of_text, wrong_size
from infifusion.store.lock import claim, lost
from infifusion.store.records import Json, damaged, plain, read_record, write_record

MANIFEST = "manifest.json"
STARTED = "started.json"
EXACT = "fingerprint_sha256"
SIGNED = {"fingerprint", EXACT, "counts", "seconds", "files", "bytes"}
"""What a manifest holds."""
REDO = "Run again with --redo, which makes anew what is damaged and what follows from it."
LOOK_EVERY = 0.2  # seconds
SCRATCH = ("checkpoints", "done", "parts")
"""Folders of a stage that hold work under way; they go once the stage is signed, not before."""


class State(StrEnum):
    """What `open_stage` found."""

    DONE = "done"
    RESUME = "resume"
    FRESH = "fresh"


def open_stage(folder: Path, fingerprint: Json, *, redo: bool = False) -> State:
    """Make `folder` ready for a stage with this fingerprint, or say that it is done.

    Raises ArtifactError when the folder belongs to another fingerprint, naming what differs, and
    when a file of a finished stage is missing or has another size. With `redo` the first process
    deletes the former, and the latter's damaged files (every file's hash is then compared); the
    others wait until it has.
    """
    while redo and (reason := _unfit(folder, fingerprint)):
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
            _open_again(folder, fingerprint, reason.damaged)
    if differences := _differences(folder, fingerprint):
        listed = "\n".join(f"  {line}" for line in differences)
        raise ArtifactError(
            f"{folder} was made with other settings:\n{listed}\nGive another --run-dir, undo the "
            "change, or add --redo, which deletes this stage and those that follow from it and "
            "makes them anew."
        )
    if (folder / MANIFEST).exists():
        _require_whole(folder, read_manifest(folder, made_by=folder.name))
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
    """Why a folder cannot be gone on from; damaged: its damaged files, or None where it was made
    with other settings."""

    text: str
    damaged: list[str] | None


def _unfit(folder: Path, fingerprint: Json) -> _Unfit | None:
    """What --redo has to make anew in this folder. Reads every file of a finished one."""
    try:
        if differences := _differences(folder, fingerprint):
            return _Unfit(differences[0], None)
        if not (folder / MANIFEST).exists():
            return None
        manifest = read_manifest(folder, made_by=folder.name)
    except ArtifactError as error:
        return _Unfit(str(error), [])
    bad = [name for name in manifest["files"] if damage(folder, manifest, name)]
    return _Unfit(f"{folder / bad[0]} is damaged", bad) if bad else None


def _open_again(folder: Path, fingerprint: Json, damaged: list[str]) -> None:
    """Make a finished stage an unfinished one that lacks some files."""
    write_record(folder / STARTED, _named(fingerprint))
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in damaged:
        (folder / name).unlink(missing_ok=True)


def share_stage(
    folder: Path,
    fingerprint: Json,
    shared: Path | None,
    *,
    redo: bool = False,
    apart: Json | None = None,
) -> None:
    """Make `folder` a link into `shared`, to the place of this fingerprint, so that runs that want
    the same do it once, under whatever name. A folder that is there stays, but for a link elsewhere
    with `redo`. Where the place is still to be made, this process claims it; BusyError where
    another one has (infifusion.store.lock.claim). `apart`: what else keeps places apart.
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


def same_fingerprint(record: Json, fingerprint: Json) -> bool:
    """Whether the fingerprint in a manifest is this one."""
    return not _differing(record, fingerprint)


def _differing(record: Json, fingerprint: Json) -> list[str]:
    if record.get(EXACT) == _named(fingerprint)[EXACT]:
        return []
    return differing_fields(plain(record.get("fingerprint", {})), plain(fingerprint))


def _differences(folder: Path, fingerprint: Json) -> list[str]:
    """What differs between the fingerprint and the one that lies in the folder, if one does."""
    for name in (MANIFEST, STARTED, MANIFEST):  # again: it may have been signed in between
        with contextlib.suppress(FileNotFoundError):
            return _differing(read_record(folder / name), fingerprint)
    return []


def _named(fingerprint: Json) -> Json:
    """What is written of a fingerprint: redacted, and a hash of it as it is."""
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    return {"fingerprint": fingerprint, EXACT: sha256_of_text(text)}


def close_stage(
    folder: Path, fingerprint: Json, *, counts: Json, seconds: float, files: list[Path]
) -> None:
    """Sign the folder: write the manifest, last, with hash and size of every file in `files`.

    Raises RunError where the folder is not the one that `open_stage` made ready: it was deleted, or
    its disk is not mounted any more, and what lies there now is the half written since.
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
    """Compare files with their hashes in the manifest: all of them, or `only` these, which lie in
    the folder. A file that has not changed since is not read twice by one process.

    Raises ArtifactError that names the first bad one.
    """
    names = manifest["files"] if only is None else [str(p.relative_to(folder)) for p in only]
    for name in names:
        if name not in manifest["files"]:
            raise ArtifactError(f"{folder / MANIFEST} does not vouch for {name}. {REDO}")
        if problem := damage(folder, manifest, name):
            raise ArtifactError(f"{problem} {REDO}")


def verify_stage(folder: Path, *, made_by: str, only: Iterable[Path] | None = None) -> None:
    """The same by the manifest of a finished stage; ArtifactError where it is not finished."""
    verify_files(folder, read_manifest(folder, made_by=made_by), only=only)


def _require_whole(folder: Path, manifest: Json) -> None:
    """ArtifactError unless every file is there and has its size."""
    for name in manifest["files"]:
        if problem := wrong_size(folder, manifest, name):
            raise ArtifactError(f"{problem} {REDO}")


def differing_fields(found: Json, wanted: Json, prefix: str = "") -> list[str]:
    """Sentences `a.b: the folder has 1, the recipe wants 2` for every field that differs."""
    differences = []
    for key in sorted(found.keys() | wanted.keys()):
        left, right = found.get(key, "(absent)"), wanted.get(key, "(absent)")
        if isinstance(left, dict) and isinstance(right, dict):
            differences += differing_fields(left, right, f"{prefix}{key}.")
        elif left != right:
            differences.append(
                f"{prefix}{key}: the folder has {left!r}, the recipe wants {right!r}"
            )
    return differences


def cache_folder() -> Path:
    """Where what can be made again is kept: $INFIFUSION_CACHE, else the user's cache folder."""
    own = os.environ.get("INFIFUSION_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own) if own else cache / "infifusion"
