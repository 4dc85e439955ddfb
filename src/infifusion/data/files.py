"""The records of a data set: local JSONL, JSON, Parquet or CSV, or the hub."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from infifusion.data.lines import Record, read_jsonl
from infifusion.errors import DataError
from infifusion.recipe import DataFile

LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
ROWS_AT_ONCE = 512
"""Rows of Parquet that are Python objects at once."""


def first_record(source: DataFile) -> Record | None:
    """The first record, without reading a whole hub data set; None where there is none."""
    return next((record for _, record in first_records(source)), None)


def first_records(source: DataFile) -> Iterator[tuple[str, Record]]:
    """As `read_placed`, but for a caller that wants a few: a hub data set is read as far as it is
    asked for."""
    if is_local(source):
        return read_placed(source)
    return ((source.path, record) for record in _read_hub(source, streaming=True))


def is_local(source: DataFile) -> bool:
    """Whether a data set is a file here, or a path that looks like one."""
    path = Path(source.path)
    return path.suffix in LOCAL_SUFFIXES or path.exists()


def is_columnar(source: DataFile) -> bool:
    """Whether the data set's columns have one type each, so that a record has null for every key
    that only other records have: Parquet and the hub's."""
    return not is_local(source) or Path(source.path).suffix == ".parquet"


def read_placed(source: DataFile) -> Iterator[tuple[str, Record]]:
    """(where it stands, a record) for all of a file or hub data set, in order: "PATH", or "PATH,
    line N". A file is read as far as it is asked for; of JSON alone all at once."""
    path = Path(source.path)
    if is_local(source):
        if not path.is_file():
            raise DataError(
                f"There is no data file {path}. Give the path of a {', '.join(LOCAL_SUFFIXES)} "
                "file, relative to the recipe file."
            )
        if path.suffix == ".parquet":
            records = _read_parquet(path)
        elif path.suffix == ".json":
            records = _read_json_list(path)
        elif path.suffix == ".csv":
            records = _read_csv(path)
        else:
            yield from read_jsonl(path)
            return
    else:
        records = _read_hub(source)
    yield from ((source.path, record) for record in records)


def _read_json_list(path: Path) -> Iterator[Record]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON in UTF-8: {error}. Correct that place.") from None
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise DataError(f"{path}: expected a JSON list of objects (or use .jsonl, one a line).")
    yield from records


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a whole Parquet file: {error}. Copy or download it again."
        ) from None


def _read_csv(path: Path) -> Iterator[Record]:
    """Rows of a CSV file whose first line names the columns; every value is a text."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            for number, record in enumerate(rows, start=1):
                if None in record or None in record.values():
                    raise DataError(
                        f"{path}, row {number} (line {rows.line_num}): expected "
                        f"{len(rows.fieldnames or [])} values, one per column of the first line. "
                        "Put values with commas or line breaks in double quotes."
                    )
                yield record
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not a CSV file in UTF-8: {error}. Save it as one."
            ) from None
        except csv.Error as error:
            raise DataError(
                f"{path}, line {rows.line_num}: not CSV: {error}. Correct that line."
            ) from None


def _read_hub(source: DataFile, *, streaming: bool = False) -> Iterator[Record]:
    import datasets

    try:
        data = datasets.load_dataset(
            source.path, source.name, split=source.split, streaming=streaming
        )
    except Exception as error:  # the hub client raises many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{source.path!r} is neither a local {', '.join(LOCAL_SUFFIXES)} file nor a data set "
            f"that the hub gives: {reason}. Paths are relative to the recipe file."
        ) from error
    for record in data:
        yield dict(record)
