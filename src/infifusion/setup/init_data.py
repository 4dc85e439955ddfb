"""How the columns of a data set are written into a new recipe."""

from __future__ import annotations

from infifusion.data.files import first_record, is_local
from infifusion.data.formats import Record, likely_keys, recognise
from infifusion.errors import DataError
from infifusion.recipe import DataFile

UNSEEN = "the data set could not be asked; `infifusion check` says how it reads"


def keys_of(record: Record, where: str) -> tuple[dict[str, str], str]:
    """The keys of a data entry beside path and domain, and a comment for it.

    None for a known format, which is recognised again when it is read; else prompt and response (or
    messages) by the names of the columns. DataError where they say nothing.
    """
    try:
        found = recognise(record, where)
    except DataError:
        keys = likely_keys(record)
        if not keys:
            raise
        return keys, ""
    return {}, f"{found.name} ({', '.join(found.present(record))})"


def keys_of_file(path: str) -> tuple[dict[str, str], str]:
    """The same by a data set's first record; of the hub's, nothing where it cannot be read now."""
    source = DataFile(path=path, domain="any")
    try:
        first = first_record(source)
    except DataError:
        if is_local(source):
            raise
        return {}, UNSEEN
    if first is None:
        raise DataError(f"{path} holds no examples. Give a file with one JSON object a line.")
    return keys_of(first, path)
