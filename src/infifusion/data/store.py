"""Examples and rendered conversations on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from safetensors.numpy import load_file, save_file

from infifusion.artifacts import atomic_write
from infifusion.errors import ArtifactError
from infifusion.types import Example, Message, Rendered


def write_examples(path: Path, examples: list[Example]) -> None:
    """One JSON object a line."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def load_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote."""
    examples = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            value = json.loads(line)
            prompt = tuple(Message(role=m["role"], content=m["content"]) for m in value["prompt"])
            examples.append(Example(value["id"], value["domain"], prompt, value["response"]))
    return examples


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
