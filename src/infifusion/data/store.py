"""Examples, answers and rendered conversations on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

from safetensors.numpy import load_file, save_file

from infifusion.artifacts import Json, atomic_write
from infifusion.errors import ArtifactError
from infifusion.types import Example, Message, Rendered, Written


def write_examples(path: Path, examples: list[Example]) -> None:
    """One JSON object a line."""
    write_lines(path, map(asdict, examples))


def load_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote."""
    return [
        Example(
            value["id"],
            value["domain"],
            tuple(Message(role=m["role"], content=m["content"]) for m in value["prompt"]),
            value["response"],
            value.get("written_by"),
        )
        for value in read_lines(path)
    ]


def load_responses(path: Path) -> list[Example]:
    """The examples in a file of responses: the prompts for which an answer was kept."""
    return [
        Example(
            value["id"],
            value["domain"],
            tuple(Message(role=m["role"], content=m["content"]) for m in value["prompt"]),
            value["response"],
            value["winner"],
        )
        for value in read_lines(path)
        if value["winner"] is not None
    ]


def write_answers(path: Path, answers: list[Written]) -> None:
    """One JSON object a line."""
    write_lines(path, map(asdict, answers))


def load_answers(path: Path) -> list[Written]:
    """What `write_answers` wrote."""
    return [Written(**value) for value in read_lines(path)]


def write_lines(path: Path, values: Iterable[Json]) -> None:
    """JSON objects, one a line; the file appears whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> Iterator[Json]:
    """What `write_lines` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_rendered(path: Path, rendered: Rendered) -> None:
    """The arrays of one Rendered as safetensors."""
    with atomic_write(path) as temporary:
        save_file({f.name: getattr(rendered, f.name) for f in fields(rendered)}, temporary)


def load_rendered(path: Path) -> Rendered:
    """What `write_rendered` wrote; ArtifactError when the file is damaged."""
    try:
        return Rendered(**load_file(path))
    except Exception as error:  # safetensors raises its own kinds on damage
        raise ArtifactError(
            f"{path} cannot be read ({error}). Delete the folder {path.parent.parent} and run "
            "again."
        ) from error
