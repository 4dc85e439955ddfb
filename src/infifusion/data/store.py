"""Examples, answers, rendered conversations and fused targets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from safetensors.numpy import save_file

from infifusion.errors import ArtifactError, CheckpointError
from infifusion.merge.checkpoints.reader import arrays_of
from infifusion.store.disk import unreadable
from infifusion.store.durable import atomic_write
from infifusion.store.records import Json
from infifusion.types import Example, Message, Rendered, Target, Written

Made = TypeVar("Made")
ARRAYS = tuple(field.name for field in fields(Target))
"""The arrays of a fused target, a file each."""


def write_examples(path: Path, examples: list[Example]) -> None:
    """One JSON object a line; confirmed_by stands only where there is one."""
    write_lines(path, map(_line, examples))


def _line(example: Example) -> Json:
    line = asdict(example)
    if example.confirmed_by is None:
        del line["confirmed_by"]
    return line


def load_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote; ArtifactError when the file is damaged."""
    return list(_each(path, lambda value: _example(value, *_writers(value))))


def _writers(value: Json) -> tuple[str | None, str | None]:
    """(written_by, confirmed_by) of a line of examples."""
    return value.get("written_by"), value.get("confirmed_by")


class Label(NamedTuple):
    """An example without its texts: what a process keeps of it for days."""

    id: str
    domain: str
    written_by: str | None
    confirmed_by: str | None


def load_labels(path: Path) -> list[Label]:
    """The same examples' labels, line by line; ArtifactError when the file is damaged."""
    return list(_each(path, lambda value: Label(value["id"], value["domain"], *_writers(value))))


def load_responses(path: Path) -> list[Example]:
    """The examples in a file of responses: the prompts for which an answer was kept."""
    found = _each(path, lambda value: _example(value, value["winner"]))
    return [example for example in found if example.written_by is not None]


def _example(value: Json, written_by: str | None, confirmed_by: str | None = None) -> Example:
    return Example(
        value["id"],
        value["domain"],
        tuple(Message(role=m["role"], content=m["content"]) for m in value["prompt"]),
        value["response"],
        written_by,
        confirmed_by,
    )


def write_answers(path: Path, answers: list[Written]) -> None:
    """One JSON object a line."""
    write_lines(path, map(asdict, answers))


def load_answers(path: Path) -> list[Written]:
    """What `write_answers` wrote; ArtifactError when the file is damaged."""
    return list(_each(path, lambda value: Written(**value)))


def write_lines(path: Path, values: Iterable[Json]) -> None:
    """JSON objects, one a line; the file appears whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> Iterator[Json]:
    """What `write_lines` wrote; ArtifactError names the line that is damaged."""
    return _each(path, dict)


def _each(path: Path, make: Callable[[Json], Made]) -> Iterator[Made]:
    """Every line's object, as `make` makes it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield make(json.loads(line))
            except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
                raise ArtifactError(
                    f"{path}, line {number}, is damaged ({error!r:.200}). Delete the folder "
                    f"{path.parent} and run again."
                ) from None


def write_rendered(path: Path, rendered: Rendered) -> None:
    """The arrays of one Rendered as safetensors."""
    with atomic_write(path) as temporary:
        save_file({f.name: getattr(rendered, f.name) for f in fields(rendered)}, temporary)


def load_rendered(path: Path) -> Rendered:
    """What `write_rendered` wrote, read from the file when it is used: the processes of a machine
    share it. ArtifactError when the file is damaged, RunError where it cannot be read just now."""
    try:
        return Rendered(**arrays_of(path))
    except (CheckpointError, FileNotFoundError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}). Delete the folder {path.parent.parent} and run "
            "again."
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def load_target(out: Path) -> Target:
    """The memory-mapped arrays of a finished target."""
    return Target(**{name: np.load(out / f"{name}.npy", mmap_mode="r") for name in ARRAYS})
