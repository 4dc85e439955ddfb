"""Run folders on disk: what a finished stage looks like, and when a stage may go on.

A stage folder is finished when, and only when, it holds `manifest.json`, which is written last.
The manifest holds the fingerprint (everything that decides what the stage writes), the counts of
what was done and ignored, the seconds it took and the SHA-256 of every file it vouches for.
While a stage is under way its fingerprint lies in `started.json`, so that another recipe cannot
go on from it. The rules of opening a folder:

    same fingerprint, manifest        done: skip
    same fingerprint, no manifest     resume: the stage goes on from what is complete
    other fingerprint                 ArtifactError that lists the fields that differ; or, where
                                      asked, the folder is deleted and the stage made anew
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from infifusion.errors import ArtifactError
from infifusion.redact import redact
from infifusion.runtime import log, rank

MANIFEST = "manifest.json"
STARTED = "started.json"
LOOK_EVERY = 0.2  # seconds
Json = dict[str, Any]


class State(StrEnum):
    """What `open_stage` found."""

    DONE = "done"
    RESUME = "resume"
    FRESH = "fresh"


def open_stage(folder: Path, fingerprint: Json, *, redo: bool = False) -> State:
    """Make `folder` ready for a stage with this fingerprint, or say that it is done.

    Raises ArtifactError when the folder belongs to another fingerprint, naming what differs; with
    `redo` the first process deletes such a folder and the others wait until it has.
    """
    while (differences := _differences(folder, fingerprint)) and redo:
        if rank() == 0:
            log.info("redo: %s was made with other settings (%s)", folder, differences[0])
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as gone:
                folder.replace(Path(gone) / "stale")  # at once, so that no process sees half of it
        else:
            time.sleep(LOOK_EVERY)
    if differences:
        listed = "\n".join(f"  {line}" for line in differences)
        raise ArtifactError(
            f"{folder} was made with other settings:\n{listed}\nGive another --run-dir, undo the "
            "change, or add --redo, which deletes this stage and those that follow from it and "
            "makes them anew."
        )
    for name, state in ((MANIFEST, State.DONE), (STARTED, State.RESUME)):
        if (folder / name).exists():
            return state
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STARTED, {"fingerprint": fingerprint})
    return State.FRESH


def share_stage(
    folder: Path, fingerprint: Json, shared: Path | None, *, redo: bool = False
) -> None:
    """Make `folder` a link into `shared`, to the place of this fingerprint, so that runs that want
    the same do it once. A folder that is there stays, but for a link elsewhere with `redo`.

    Two processes must not work in one place at a time; whoever starts them sees to that.
    """
    if shared is None:
        return
    text = json.dumps(plain(fingerprint), sort_keys=True)
    place = shared.resolve() / f"{folder.parent.name}-{folder.name}-{sha256_of_text(text)[:16]}"
    if redo and folder.is_symlink() and folder.resolve() != place:
        folder.unlink()
    if not folder.exists():
        place.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(os.path.relpath(place, folder.parent.resolve()))


def _differences(folder: Path, fingerprint: Json) -> list[str]:
    """What differs between the fingerprint and the one that lies in the folder, if one does."""
    for name in (MANIFEST, STARTED):
        if (folder / name).exists():
            found = read_json(folder / name).get("fingerprint", {})
            return differing_fields(plain(found), plain(fingerprint))
    return []


def close_stage(
    folder: Path, fingerprint: Json, *, counts: Json, seconds: float, files: list[Path]
) -> None:
    """Sign the folder: write the manifest, last, with the hash of every file in `files`."""
    hashes = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(files)}
    write_json(
        folder / MANIFEST,
        {
            "fingerprint": fingerprint,
            "counts": counts,
            "seconds": round(seconds, 3),
            "files": hashes,
        },
    )
    (folder / STARTED).unlink(missing_ok=True)


def read_manifest(folder: Path, *, made_by: str) -> Json:
    """The manifest of a finished stage; ArtifactError when the stage is not finished."""
    path = folder / MANIFEST
    if not path.exists():
        raise ArtifactError(
            f"{folder} holds no {MANIFEST}: the stage '{made_by}' is not finished there. Run "
            "`infifusion run` on the recipe again; it goes on where it stopped."
        )
    return read_json(path)


def verify_files(folder: Path, manifest: Json) -> None:
    """Compare every file with the hash in the manifest; ArtifactError names the first bad one."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.exists():
            raise ArtifactError(f"{path} is missing; delete {folder} and run again.")
        if sha256_of(path) != expected:
            raise ArtifactError(
                f"{path} is not the file that was written: its SHA-256 differs from the manifest. "
                f"Delete {folder} and run again."
            )


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


def plain(value: Any) -> Any:
    """The value as JSON would give it back (tuples become lists, paths strings), redacted."""
    return redact(json.loads(json.dumps(value, default=str)))


def cache_folder() -> Path:
    """Where what can be made again is kept: $INFIFUSION_CACHE, else the user's cache folder."""
    own = os.environ.get("INFIFUSION_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own) if own else cache / "infifusion"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(*parts: str) -> str:
    """Hex SHA-256 of some strings, kept apart by NUL bytes."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_json(path: Path) -> Json:
    """One JSON object; ArtifactError when the file is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Delete it and run again.") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged: expected a JSON object. Delete it and run again.")
    return value


def write_json(path: Path, value: Json) -> None:
    """Write a JSON object whole or not at all, without secrets and home paths."""
    with atomic_write(path) as temporary:
        text = json.dumps(plain(value), indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it (after fsync) only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed onto it only if the block succeeds.

    Raises ArtifactError when `path` exists and is not empty: nothing is overwritten.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArtifactError(f"{path} exists already. Give another folder, or delete this one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True
    ) as name:
        temporary = Path(name) / "new"
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.replace(path)
