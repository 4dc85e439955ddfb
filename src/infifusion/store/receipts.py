"""What an unfinished stage has made so far, vouched for piece by piece.

When a piece of work is done (a shard, a chunk, a checkpoint), a receipt is written beside it, last:
a signed record with the hashes of what was made and the mark of the stage that made it. A stage
that goes on builds on pieces that match their receipts; any other is made anew. So a file that was
cut short, changed, or brought from another run or another place of this one is never built upon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from infifusion.errors import ArtifactError
from infifusion.process.runtime import log
from infifusion.store.artifacts import MANIFEST, STARTED
from infifusion.store.disk import unreadable
from infifusion.store.hashes import quick_hash
from infifusion.store.records import Json, read_record, signature_of, write_record

RECEIPTS = "receipts"
"""The folder of a stage's receipts. It stays when the stage is signed: should the manifest or a
shard be damaged later, the other shards need not be made anew."""

Hashes = dict[str, str]


def mark_of(stage: Path) -> str:
    """What tells an unfinished stage from every other: the signature of its fingerprint. Empty
    where the work belongs to no stage."""
    try:
        return signature_of(stage / STARTED)
    except FileNotFoundError:
        return ""


def receipt_of(stage: Path, piece: str) -> Path:
    """Where the receipt of a piece lies."""
    return stage / RECEIPTS / f"{piece}.json"


def hashes_of(files: Iterable[Path], folder: Path) -> Hashes:
    """The quick hash of every file, by its path in the folder."""
    return {str(path.relative_to(folder)): quick_hash(path) for path in files}


def sign(receipt: Path, hashes: Hashes, *, mark: str, more: Json | None = None) -> None:
    """Write the receipt of a piece whose content has these hashes."""
    write_record(receipt, {"stage": mark, "piece": receipt.stem, "hashes": hashes, **(more or {})})


def is_whole(receipt: Path, hashes: Callable[[], Hashes], *, mark: str) -> bool:
    """Whether a piece is there as it was made. `hashes` makes those of what is there now, and may
    fail where something is missing or cut short. RunError where that cannot be seen just now: hours
    of work are not made anew, nor deleted, for a passing fault."""
    if not receipt.exists():
        return False
    try:
        found = read_record(receipt)
        wanted = {"stage": mark, "piece": receipt.stem, "hashes": hashes()}
    except (ArtifactError, FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise unreadable(receipt, error) from error
    return {key: found.get(key) for key in wanted} == wanted


def must_be_made(
    receipt: Path, hashes: Callable[[], Hashes], *, mark: str, stage: Path | None
) -> bool:
    """Whether a piece that is this process's to make is not there as it should be. Where it was,
    and has been damaged since, that is said and the receipt goes.

    Nothing must be made of a stage that is signed: of several processes that go on with a stage of
    which every piece is there, the first may sign it, and its receipts go, before the others look.
    """
    if is_whole(receipt, hashes, mark=mark) or (stage is not None and (stage / MANIFEST).exists()):
        return False
    if receipt.exists():
        log.warning(
            "Made anew: %s of %s is not what was written there, or is missing",
            receipt.stem,
            receipt.parent.parent,
        )
        receipt.unlink()
    return True


class FilePieces:
    """The pieces of a stage that are one file each."""

    def __init__(self, stage: Path) -> None:
        self._stage, self._mark = stage, mark_of(stage)

    def is_whole(self, path: Path) -> bool:
        """Whether the file is there as it was made, by whichever process."""
        return is_whole(self._receipt(path), lambda: self._hashes(path), mark=self._mark)

    def must_be_made(self, path: Path) -> bool:
        """Whether this process has to make the file."""
        return must_be_made(
            self._receipt(path), lambda: self._hashes(path), mark=self._mark, stage=self._stage
        )

    def sign(self, path: Path) -> None:
        """Vouch for the file that was made."""
        sign(self._receipt(path), self._hashes(path), mark=self._mark)

    def _receipt(self, path: Path) -> Path:
        return receipt_of(self._stage, path.name)

    def _hashes(self, path: Path) -> Hashes:
        return hashes_of([path], self._stage)
