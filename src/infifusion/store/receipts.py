"""Receipts: signed records of the pieces that an unfinished stage has made so far.

When a piece of work is done (a shard, a chunk, a checkpoint), a receipt is written beside it, last.
It holds the hashes of what was made and the mark of the stage that made it. A stage that goes on
keeps the pieces that match their receipts and makes all others anew, so a file that was cut short,
changed, or copied from another run or another place of this one is never built upon.
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
    """The mark of an unfinished stage: the signature of its fingerprint, which no stage with other
    settings has. Empty where the work belongs to no stage."""
    try:
        return signature_of(stage / STARTED)
    except FileNotFoundError:
        return ""


def receipt_of(stage: Path, piece: str) -> Path:
    """Where the receipt of a piece lies."""
    return stage / RECEIPTS / f"{piece}.json"


def hashes_of(files: Iterable[Path], folder: Path, *, sealed: bool = False) -> Hashes:
    """The quick hash of every file, by its path in the folder. sealed: see `quick_hash`."""
    return {str(path.relative_to(folder)): quick_hash(path, sealed=sealed) for path in files}


def sign(receipt: Path, hashes: Hashes, *, mark: str, more: Json | None = None) -> None:
    """Write the receipt of a piece whose content has these hashes; `more` stands in it, too."""
    write_record(receipt, {"stage": mark, "piece": receipt.stem, "hashes": hashes, **(more or {})})


def is_whole(receipt: Path, hashes: Callable[[], Hashes], *, mark: str) -> bool:
    """Whether a piece is there as it was made.

    `hashes` computes those of what is there now, and may fail where something is missing or cut
    short. Raises RunError where the piece cannot be read for the moment: hours of work are not made
    anew, nor deleted, because of a fault that passes.
    """
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
    """Whether this process has to make a piece that falls to it.

    A receipt whose piece has been damaged since is deleted, with a warning. A stage that is signed
    needs no piece: of several processes that go on with a stage of which every piece is there, the
    first may sign it and delete its receipts before the others look.
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


class Pieces:
    """The pieces of a stage, each named by the path of its receipt."""

    def __init__(self, stage: Path, hashes: Callable[[Path], Hashes]) -> None:
        """hashes: computes those of a piece as it is now. Call it when the stage is open."""
        self._stage, self._mark, self._hashes = stage, mark_of(stage), hashes

    def is_whole(self, piece: Path) -> bool:
        """Whether the piece is there as it was made, by whichever process."""
        return is_whole(self._receipt(piece), lambda: self._hashes(piece), mark=self._mark)

    def must_be_made(self, piece: Path) -> bool:
        """Whether this process has to make the piece."""
        return must_be_made(
            self._receipt(piece), lambda: self._hashes(piece), mark=self._mark, stage=self._stage
        )

    def sign(self, piece: Path, more: Json | None = None) -> None:
        """Write the receipt of a piece that was made."""
        sign(self._receipt(piece), self._hashes(piece), mark=self._mark, more=more)

    def _receipt(self, piece: Path) -> Path:
        return piece


class FilePieces(Pieces):
    """The pieces of a stage that are one file each, named by the path of the file. The manifest
    will hold the files, so their SHA-256 is computed along with the quick hash."""

    def __init__(self, stage: Path) -> None:
        super().__init__(stage, lambda path: hashes_of([path], stage, sealed=True))

    def _receipt(self, piece: Path) -> Path:
        return receipt_of(self._stage, piece.name)
