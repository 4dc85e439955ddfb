"""Examples, answers, rendered conversations and fused targets on disk."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from infifusion.data.lines import Record, read_lines, write_lines
from infifusion.errors import ArtifactError, CheckpointError
from infifusion.merge.checkpoints.reader import arrays_of
from infifusion.store.disk import unreadable
from infifusion.store.durable import atomic_write
from infifusion.types import Example, Message, Rendered, Target, Written

ARRAYS = tuple(field.name for field in fields(Target))
"""The arrays of a fused target, a file each."""


def write_examples(path: Path, examples: list[Example]) -> None:
    """One JSON object a line; what most examples lack stands only where it is."""
    write_lines(path, map(_line, examples))


def _line(example: Example) -> Record:
    line = asdict(example)
    del line["place"], line["data_set"]
    for key in ("confirmed_by", "tools", "answer"):
        if not line[key]:
            del line[key]
    return line


def load_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote; ArtifactError when the file is damaged."""
    return list(read_lines(path, lambda value: _example(value, *_writers(value))))


def _writers(value: Record) -> tuple[str | None, str | None]:
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
    return list(
        read_lines(path, lambda value: Label(value["id"], value["domain"], *_writers(value)))
    )


def load_responses(path: Path) -> list[Example]:
    """The examples in a file of responses: the prompts for which an answer was kept."""
    found = read_lines(path, lambda value: _example(value, value["winner"]))
    return [example for example in found if example.written_by is not None]


def _example(value: Record, written_by: str | None, confirmed_by: str | None = None) -> Example:
    return Example(
        value["id"],
        value["domain"],
        tuple(Message(role=m["role"], content=m["content"]) | m for m in value["prompt"]),
        value["response"],
        written_by,
        confirmed_by,
        tuple(value.get("tools", ())),
        value.get("answer"),
    )


def write_answers(path: Path, answers: list[Written]) -> None:
    """One JSON object a line."""
    write_lines(path, map(asdict, answers))


def load_answers(path: Path) -> list[Written]:
    """What `write_answers` wrote; ArtifactError when the file is damaged."""
    return list(read_lines(path, lambda value: Written(**value)))


def write_rendered(path: Path, rendered: Rendered) -> None:
    """The arrays of one Rendered as safetensors."""
    with atomic_write(path) as temporary:
        arrays = {f.name: getattr(rendered, f.name) for f in fields(rendered)}
        save_file({name: a for name, a in arrays.items() if a is not None}, temporary)


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
