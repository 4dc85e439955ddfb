"""The records of a data set: local files, a folder of `datasets`, or the hub."""

from __future__ import annotations

import csv
import glob
import io
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from infifusion.data.lines import Record, read_jsonl
from infifusion.errors import DataError
from infifusion.process.runtime import log
from infifusion.recipe import DataFile

KINDS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
COMPRESSED = (".gz", ".bz2", ".zst", ".xz")
LOCAL_SUFFIXES = (*KINDS, *(f".jsonl{suffix}" for suffix in COMPRESSED[:3]))
"""What a message says can be read; every kind but Parquet may be compressed."""
SAVED = ("state.json", "dataset_dict.json")
"""Files of a folder that `save_to_disk` of datasets wrote."""
SEPARATORS = {";": "semicolons", "\t": "tabs"}
SHUFFLED = 10_000
"""Records of a streamed hub data set among which the next one is drawn."""
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
    return ((source.path, record) for record in _read_hub(source, streaming=True, whole=False))


def is_local(source: DataFile) -> bool:
    """Whether a data set is a file or folder here, or a path that looks like one."""
    path = Path(source.path)
    return kind_of(path) in KINDS or glob.has_magic(source.path) or path.exists()


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def files_of(source: DataFile) -> list[Path]:
    """The files here that a data set consists of, sorted: one, those that a pattern such as
    data/*.jsonl fits, or all of a folder; none for the hub's."""
    path = Path(source.path)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if glob.has_magic(source.path):
        return sorted(Path(file) for file in glob.glob(source.path, recursive=True))
    return []


def is_columnar(source: DataFile) -> bool:
    """Whether the data set's columns have one type each, so that a record has null for every key
    that only other records have: Parquet, folders of datasets, and the hub's."""
    return not is_local(source) or any(kind_of(f) not in KINDS[:2] for f in files_of(source))


def read_placed(source: DataFile) -> Iterator[tuple[str, Record]]:
    """(where it stands, a record) for all of a data set, in order: "PATH", or "PATH, line N". A
    file is read as far as it is asked for; of JSON alone all at once."""
    path = Path(source.path)
    if not is_local(source):
        records = _read_hub(source, streaming=source.streaming, whole=True)
        yield from ((source.path, record) for record in records)
    elif path.is_dir():
        yield from ((source.path, record) for record in _read_folder(source))
    else:
        files = files_of(source)
        if not files:
            what = "no file that fits" if glob.has_magic(source.path) else "no data file"
            raise DataError(
                f"There is {what} {path}. Give the path of a {', '.join(LOCAL_SUFFIXES)} "
                "file, relative to the recipe file."
            )
        for file in files:
            yield from _read_file(file)


def _read_file(path: Path) -> Iterator[tuple[str, Record]]:
    kind = kind_of(path)
    if kind == ".parquet":
        records = _read_parquet(path)
    elif kind == ".json":
        records = _read_json_list(path)
    elif kind in (".csv", ".tsv"):
        records = _read_table(path, kind)
    elif kind == ".gguf":
        raise DataError(
            f"{path} is a model (GGUF), no data. Name it as a model, and a file of examples here."
        )
    else:
        with _opened(path) as file:
            yield from read_jsonl(path, file)
        return
    yield from ((str(path), record) for record in records)


def _opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where its name says that it is compressed. DataError while it is
    read where it is cut short or of another kind."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return path.open("rb")
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path))
    import pyarrow

    names = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
    return cast(
        BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression=names[suffix]))
    )


def _read_json_list(path: Path) -> Iterator[Record]:
    try:
        with _opened(path) as file:
            records = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError, OSError, EOFError, lzma.LZMAError) as error:
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


def _read_table(path: Path, kind: str) -> Iterator[Record]:
    """Rows of a CSV or TSV file whose first line names the columns; every value is a text. A CSV
    file whose first line has no comma may have semicolons or tabs, as spreadsheets write them."""
    csv.field_size_limit(sys.maxsize)
    name = kind[1:].upper()
    rows: Any = None
    try:
        with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = _separator(path, first) if kind == ".csv" else "\t"
            lines = (line for part in ((first,), file) for line in part)
            rows = csv.DictReader(lines, strict=True, delimiter=separator)
            for number, record in enumerate(rows, start=1):
                if None in record or None in record.values():
                    raise DataError(
                        f"{path}, row {number} (line {rows.line_num}): expected "
                        f"{len(rows.fieldnames or [])} values, one per column of the first line. "
                        "Put values with commas or line breaks in double quotes."
                    )
                yield record
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a {name} file in UTF-8: {error}. Save it as one.") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. Copy it again.") from None
    except csv.Error as error:
        line = rows.line_num if rows is not None else 1
        raise DataError(f"{path}, line {line}: not {name}: {error}. Correct that line.") from None


def _separator(path: Path, first: str) -> str:
    """What stands between the columns that the first line names."""
    for separator, words in SEPARATORS.items():
        if "," not in first and separator in first:
            log.info("%s: the columns are separated by %s", path, words)
            return separator
    return ","


def _read_folder(source: DataFile) -> Iterator[Record]:
    """A folder that `save_to_disk` of datasets wrote, or one of files that `load_dataset` reads."""
    import datasets

    path = Path(source.path)
    if any(path.glob("*.gguf")) or (path / "config.json").is_file():
        raise DataError(
            f"{path} is the folder of a model, no data. Name it as a model, and a file of examples "
            "here."
        )
    if not any((path / name).is_file() for name in SAVED):
        try:
            yield from _read_hub(source, streaming=False, whole=True)
        except DataError as error:
            raise DataError(f"There is no data file in the folder {path}: {error}") from None
        return
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # of many kinds, all about the folder
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path} is not what save_to_disk writes: {reason}.") from error
    if isinstance(data, datasets.DatasetDict):
        if source.split not in data:
            raise DataError(
                f"{path} has no split {source.split!r}; it has {', '.join(map(str, data))}. Say "
                "`split:` in the recipe."
            )
        data = data[source.split]
    for record in data:
        yield dict(cast(Record, record))


def _read_hub(source: DataFile, *, streaming: bool, whole: bool) -> Iterator[Record]:
    """whole: all that the recipe asks for, of a stream `limit` records from a shuffled buffer."""
    import datasets

    try:
        data: Any = datasets.load_dataset(
            source.path, source.name, split=source.split, streaming=streaming
        )
    except Exception as error:  # the hub client raises many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{source.path!r} is neither a local {', '.join(LOCAL_SUFFIXES)} file nor a data set "
            f"that the hub gives: {reason}. Paths are relative to the recipe file."
        ) from error
    if streaming and whole:
        data = data.shuffle(seed=0, buffer_size=SHUFFLED).take(source.limit)
    for record in data:
        yield dict(record)
