"""JSON files of a run: written whole or not at all, without secrets and home paths.

A record is a JSON object with a checksum under the key `signature`: SHA-256 of its text without
that key. A record is accepted only if it is, byte for byte, what writing its content would give.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infifusion.errors import ArtifactError
from infifusion.process.redact import redact
from infifusion.store.durable import atomic_write
from infifusion.store.hashes import sha256_of_text

SIGNATURE = "signature"
Json = dict[str, Any]


def plain(value: Any) -> Any:
    """The value as JSON would give it back (tuples become lists, paths strings), redacted."""
    return redact(json.loads(json.dumps(value, default=str)))


def read_json(path: Path) -> Json:
    """One JSON object; ArtifactError when the file is damaged. A checksum is verified and left
    out."""
    return _read(path)[0]


def write_json(path: Path, value: Json) -> None:
    """Write a JSON object whole or not at all, without secrets and home paths."""
    _write(path, plain(value))


def read_record(path: Path) -> Json:
    """What `write_record` wrote; ArtifactError when a byte of it has changed."""
    value, signed = _read(path)
    if not signed:
        raise damaged(path, "it is not signed")
    return value


def write_record(path: Path, value: Json) -> None:
    """Write a JSON object with the checksum of its text."""
    _write(path, _signed(plain(value)))


def signature_of(path: Path) -> str:
    """The checksum of a file that `write_record` wrote; the same for the same content."""
    return _signed(read_record(path))[SIGNATURE]


def _write(path: Path, value: Json) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(_as_text(value), encoding="utf-8")


def _read(path: Path) -> tuple[Json, bool]:
    """A JSON object, and whether it was signed."""
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("expected a JSON object")
        signed = SIGNATURE in value
        if signed and text != _as_text(_signed(value)):
            raise ValueError("its content is not what was signed")
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    value.pop(SIGNATURE, None)
    return value, signed


def _signed(value: Json) -> Json:
    unsigned = {key: value[key] for key in value if key != SIGNATURE}
    return {**unsigned, SIGNATURE: sha256_of_text(_as_text(unsigned))}


def _as_text(value: Json) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


def damaged(path: Path, why: str) -> ArtifactError:
    """The error for a file that is not what was written."""
    return ArtifactError(f"{path} is damaged ({why}). Delete it, or add --redo, and run again.")


def without(fields: Json, free: Sequence[str]) -> Json:
    """The fields but for the free ones, each by its path."""
    left = copy.deepcopy(fields) if free else fields
    for path in free:
        *parents, last = path.split(".")
        here: Any = left
        for key in parents:
            here = here.get(key) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here.pop(last, None)
    return left


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
