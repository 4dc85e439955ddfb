"""Reading data sets: local JSONL, JSON, Parquet or CSV, or the hub; fields mapped."""

from __future__ import annotations

import csv
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from infifusion.data.formats import Format, Record, as_turns, recognise
from infifusion.errors import DataError
from infifusion.recipe import DataFile, DataSource
from infifusion.registry import nearest
from infifusion.runtime import log
from infifusion.types import Example, Message

LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
LONGEST_LINE = 1 << 26
"""Bytes of a line of JSONL: 64 MiB, some 15 million tokens."""
ROWS_AT_ONCE = 512
"""Rows of Parquet that are Python objects at once."""
EXAMPLE_LINE = '{"prompt": "...", "response": "..."}'
Entry = TypeVar("Entry")


def read_examples(source: DataSource, *, seed: int) -> tuple[list[Example], int]:
    """All examples of one source, and how many had an empty response (left out).

    Raises DataError that names the file and the line or row for anything that does not fit.
    """
    records = read_records(source)
    first = next(records, None)
    if first is None:
        raise DataError(f"{source.path} holds no examples. Check the file, or the hub's split.")
    found = format_of(source, first)
    if found is not None:
        log.info("%s: %s (%s)", source.path, found.name, ", ".join(found.present(first)))
    examples, empty = [], 0
    for place, record in enumerate(chain([first], records)):
        example = to_example(source, found, record, place)
        if example.response.strip():
            examples.append(example)
        else:
            empty += 1
    return limited(examples, source, seed=seed), empty


def format_of(source: DataSource, first: Record) -> Format | None:
    """The format that the columns of the first record say; None where the recipe names them."""
    if source.messages is not None or source.prompt is not None or source.response is not None:
        return None
    return recognise(first, f"{source.path}, example 1")


def limited(entries: list[Entry], source: DataFile, *, seed: int) -> list[Entry]:
    """source.limit of the entries, chosen by the seed; in their order."""
    if source.limit is None or source.limit >= len(entries):
        return entries
    chosen = random.Random(f"{seed}:{source.path}").sample(range(len(entries)), source.limit)
    return [entries[index] for index in sorted(chosen)]


def first_record(source: DataFile) -> Record | None:
    """The first record, without reading a whole hub data set; None where there is none."""
    if is_local(source):
        return next(read_records(source), None)
    return next(_read_hub(source, streaming=True), None)


def is_local(source: DataFile) -> bool:
    """Whether a data set is a file here, or a path that looks like one."""
    path = Path(source.path)
    return path.suffix in LOCAL_SUFFIXES or path.exists()


def read_records(source: DataFile) -> Iterator[Record]:
    """The records of a file or hub data set, in order. A file is read as far as it is asked for; of
    JSON alone all at once."""
    path = Path(source.path)
    if is_local(source):
        if not path.is_file():
            raise DataError(
                f"There is no data file {path}. Give the path of a {', '.join(LOCAL_SUFFIXES)} "
                "file, relative to the recipe file."
            )
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix == ".json":
            yield from _read_json_list(path)
        elif path.suffix == ".csv":
            yield from _read_csv(path)
        else:
            yield from _read_jsonl(path)
    else:
        yield from _read_hub(source)


def template_fields(text: str | None, record: Record, where: str) -> str:
    """A field by name, or a template over fields such as 'Q: {question}'."""
    if text is None:
        raise DataError(f"{where}: neither prompt and response nor messages are given.")
    if "{" not in text:
        value = field_of(record, text, where)
        if not isinstance(value, str):
            raise DataError(
                f"{where}: the field '{text}' holds a {type(value).__name__}; expected text. "
                "Name a field of text, or a template over fields."
            )
        return sound_text(value, where)
    try:
        filled = text.format_map(_Fields(record, where))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where}: the template {text!r} cannot be filled in: {error}. Write a literal brace "
            "as {{ or }}."
        ) from None
    return sound_text(filled, where)


class _Fields(dict[str, Any]):
    """A record as a template sees it: a field that is not there, or null, is a DataError."""

    def __init__(self, record: Record, where: str) -> None:
        super().__init__(record)
        self._where = where

    def __getitem__(self, name: str) -> Any:
        value = field_of(dict(self), name, self._where)
        if value is None:
            raise DataError(
                f"{self._where}: the field '{name}' is null. Fill it in, or leave the record out."
            )
        return value


def sound_text(text: str, where: str) -> str:
    """The text; DataError where it holds half of a surrogate pair, which no UTF-8 file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start + 1} is half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x}), which stands for no character. Write the "
            "character whole, or remove it."
        ) from None
    return text


def field_of(record: Record, name: str, where: str) -> Any:
    """One field; DataError with the fields there are, and the nearest spelling."""
    if name not in record:
        raise DataError(
            f"{where}: there is no field '{name}'.{nearest(name, record)} "
            f"Fields: {', '.join(record)}. Name one of them in the recipe."
        )
    return record[name]


def to_example(source: DataSource, found: Format | None, record: Record, place: int) -> Example:
    """One record; found is its format, where the recipe names no columns."""
    where = f"{source.path}, example {place + 1}"
    record = record if found is None else found.read(record, where)
    messages = source.messages if found is None else "messages" if found.messages else None
    if messages is None:
        asked = template_fields(source.prompt or "prompt", record, where)
        prompt = [Message(role="user", content=asked)]
        response = template_fields(source.response or "response", record, where)
    else:
        turns = field_of(record, messages, where)
        *prompt, last = messages_of(turns, where, at_least=2)
        if last["role"] != "assistant":
            raise DataError(
                f"{where}: the last message is by '{last['role']}', not assistant. Drop that turn, "
                "or give such records as prompts of write_responses."
            )
        response = last["content"]
    return Example(id_of(source, record, place), source.domain, tuple(prompt), response)


def id_of(source: DataFile, record: Record, place: int) -> str:
    """DOMAIN/NAME: the record's own name where it has one, else its place in the file."""
    identity = record.get("id") or record.get("task_id") or record.get("unique_id")
    name = str(identity) if identity is not None else f"{Path(source.path).stem}-{place}"
    return sound_text(f"{source.domain}/{name}", f"{source.path}, record {place + 1}, id")


def own_names(names: list[str]) -> list[str]:
    """The same names; one that stands again gets a number that no other has."""
    taken = set(names)
    used: set[str] = set()
    times: Counter[str] = Counter()
    own = []
    for name in names:
        mine = name
        while mine in used or (mine != name and mine in taken):
            times[name] += 1
            mine = f"{name}#{times[name] + 1}"
        used.add(mine)
        own.append(mine)
    return own


def messages_of(value: Any, where: str, *, at_least: int) -> list[Message]:
    """A list of turns, {role, content} or ShareGPT's {from, value}; DataError where it is none, or
    shorter than `at_least`."""
    value = as_turns(value)
    fits = isinstance(value, list) and len(value) >= at_least
    fits = fits and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in value
    )
    if not fits:
        raise DataError(
            f"{where}: expected a list of {at_least} or more messages, each with the texts 'role' "
            "and 'content'. Rewrite the record, or leave it out."
        )
    return [
        Message(role=sound_text(m["role"], where), content=sound_text(m["content"], where))
        for m in value
    ]


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), start=1):
            where = f"{path}, line {number}"
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"{where} has more than {LONGEST_LINE:,} bytes. Expected JSONL, one record a "
                    "line; split what is one record."
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                hint = _other_kind(line) if number == 1 else ""
                raise DataError(
                    f"{where} is not JSON in UTF-8: {error}. {hint or 'Correct or remove it.'}"
                ) from None
            if not isinstance(record, dict):
                raise DataError(
                    f'{where}: expected a JSON object such as {{"prompt": ..., "response": ...}}; '
                    f"found a {type(record).__name__}. Rewrite or remove the line."
                )
            yield record


def _other_kind(first: bytes) -> str:
    """What to do about a file that begins like one of another kind; empty where it does not."""
    kinds = {
        (b"\xff\xfe", b"\xfe\xff"): "It looks like UTF-16: save it as UTF-8.",
        (b"\x1f\x8b", b"PK", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"): "It is compressed: unpack it.",
        (b"PAR1",): "It is a Parquet file: name it .parquet.",
    }
    return next((hint for starts, hint in kinds.items() if first.startswith(starts)), "")


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
