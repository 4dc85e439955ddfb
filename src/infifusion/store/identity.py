"""What a model or a data file is, in a few bytes: fields of the fingerprints."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.recipe import Model, as_json
from infifusion.store.artifacts import MANIFEST
from infifusion.store.folders import RunFolder
from infifusion.store.hashes import sha256_of
from infifusion.store.records import read_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
BLOCKS, BLOCK_BYTES = 256, 4096


def model_identity(model: Model) -> dict[str, Any]:
    """A folder by the contents of its files, a hub model by name and revision. Not its temperature,
    which changes what it teaches alone (stages.calibrate)."""
    values = {key: value for key, value in as_json(model).items() if key != "temperature"}
    return {**values, "files": _folder_identity(Path(model.model))}


def tokenizer_of(model: Model) -> dict[str, Any]:
    """What decides how a model sees text: tokenizer files and chat template."""
    name = model.tokenizer or model.model
    folder = Path(name)
    files = {f: sha256_of(folder / f) for f in TOKENIZER_FILES if (folder / f).is_file()}
    return {
        "name": folder.name if files else name,
        "revision": model.revision,
        "chat_template": model.chat_template,
        "files": files,
    }


def stage_identity(folder: Path, ending: str = "") -> str:
    """One hash over the files that a finished stage signed for, or those with this ending."""
    files = read_json(folder / MANIFEST)["files"]
    chosen = [name for name in sorted(files) if name.endswith(ending)]
    lines = "\n".join(f"{name} {files[name]}" for name in chosen)
    return hashlib.sha256(lines.encode()).hexdigest()


def prepared_identity(folder: RunFolder, models: list[str]) -> dict[str, str]:
    """The training examples and how each of these models (pivot or source) sees them."""
    files = read_json(folder.prepare / MANIFEST)["files"]
    paths = [folder.examples("train"), *(folder.rendered(name, "train") for name in models)]
    names = [str(path.relative_to(folder.prepare)) for path in paths]
    return {name: files[name] for name in names}


def _folder_identity(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        if folder.is_absolute() or str(folder).startswith((".", "~")):
            raise CheckpointError(
                f"There is no model folder {folder}. Give the path of a folder with config.json "
                "and safetensors weights (relative to the recipe file), or a hub name."
            )
        return {}
    names = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    return {path.name: _sampled_sha256(path) for path in names if path.is_file()}


def _sampled_sha256(path: Path) -> str:
    """SHA-256 of the size and of BLOCKS evenly spaced blocks.

    Weights of tens of gigabytes are read at every start of a run, so they are not read whole; any
    training step changes every block.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(BLOCKS):
            file.seek(max(0, (size - BLOCK_BYTES) * block // (BLOCKS - 1)))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
