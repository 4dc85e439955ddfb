"""JSON lines: the one reader and the one writer of files with a JSON object on every line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from lzma import LZMAError
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from infifusion.errors import ArtifactError, DataError
from infifusion.store.durable import atomic_write

Record = dict[str, Any]
Made = TypeVar("Made")
LONGEST_LINE = 1 << 26
"""Bytes of a line of a user's file: 64 MiB, some 15 million tokens."""
NO_LIMIT = 1 << 60
OTHER_KINDS = {
    (b"\xff\xfe", b"\xfe\xff"): "It looks like UTF-16: save it as UTF-8.",
    (b"\x1f\x8b", b"PK", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"): "It is compressed: unpack it.",
    (b"PAR1",): "It is a Parquet file: name it .parquet.",
}
"""First bytes of files that are no JSON lines, and what to do about them."""


def read_jsonl(
    path: Path,
    opened: BinaryIO | None = None,
    *,
    advice: str = "Correct or remove it.",
    longest: int = LONGEST_LINE,
) -> Iterator[tuple[str, Record]]:
    """("PATH, line N", object) for every line that is not blank, read as far as it is asked for.
    opened: the file's lines where they do not stand in it as they are (it is compressed).

    Raises DataError that names the line: more than `longest` bytes, not JSON in UTF-8 (`advice` is
    then the end of the message), or no object.
    """
    with path.open("rb") if opened is None else opened as file:
        for number, line in enumerate(_lines(path, file, longest + 1), start=1):
            where = f"{path}, line {number}"
            if len(line) > longest:
                raise DataError(
                    f"{where} has more than {longest:,} bytes. Expected JSONL, one record a "
                    "line; split what is one record."
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                kinds = OTHER_KINDS.items() if number == 1 else ()
                hint = next((hint for starts, hint in kinds if line.startswith(starts)), advice)
                raise DataError(f"{where} is not JSON in UTF-8: {error}. {hint}") from None
            if not isinstance(record, dict):
                raise DataError(
                    f'{where}: expected a JSON object such as {{"prompt": ..., "response": ...}}; '
                    f"found a {type(record).__name__}. Rewrite or remove the line."
                )
            yield where, record


def _lines(path: Path, file: BinaryIO, longest: int) -> Iterator[bytes]:
    """The lines, each cut after `longest` bytes. DataError where compressed bytes are damaged."""
    try:
        yield from iter(partial(file.readline, longest), b"")
    except (OSError, EOFError, LZMAError) as error:
        raise DataError(f"{path} cannot be read to its end: {error}. Copy it again.") from None


def read_lines(path: Path, make: Callable[[Record], Made] = dict) -> Iterator[Made]:
    """What `make` makes of every object of a file that `write_lines` wrote; ArtifactError names the
    first line that is damaged."""
    try:
        for where, record in read_jsonl(path, longest=NO_LIMIT):
            try:
                made = make(record)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise DataError(f"{where}: {error!r:.200}.") from None
            yield made
    except DataError as error:
        raise ArtifactError(
            f"{path} is damaged. {error} Delete the folder {path.parent} and run again."
        ) from None


def write_lines(path: Path, values: Iterable[Record]) -> None:
    """JSON objects, one a line; the file appears whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
