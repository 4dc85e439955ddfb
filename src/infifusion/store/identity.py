"""Fields of the fingerprints: what identifies a model, a tokenizer or a finished stage."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.reader import require_one_model
from infifusion.process.runtime import pick_device
from infifusion.recipe import Data, Model, as_json
from infifusion.store.artifacts import MANIFEST, read_manifest
from infifusion.store.folders import RunFolder
from infifusion.store.hashes import sampled_sha256, sha256_of
from infifusion.store.records import read_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

CAPACITY = (
    *("m", "model", "host", "port", "max-model-len", "max-logprobs", "max-num-seqs"),
    *("max-num-batched-tokens", "gpu-memory-utilization", "kv-cache-memory-bytes", "swap-space"),
    *("block-size", "enforce-eager", "enable-prefix-caching", "no-enable-prefix-caching"),
    *("data-parallel-size", "uvicorn-log-level", "disable-log-requests", "disable-log-stats"),
)
"""Options of a vLLM server that change what it takes, or how fast it is, and no probability."""


def model_identity(model: Model) -> dict[str, Any]:
    """A folder by the contents of its files, a hub model by name and revision. Its temperature is
    left out: it changes only what the model teaches (teacher.calibrate); and so is its engine,
    which matters only where it is run (running_identity)."""
    apart = ("temperature", "engine")
    values = {key: value for key, value in as_json(model).items() if key not in apart}
    return {**values, "files": _folder_identity(Path(model.model))}


def data_identity(data: Data) -> dict[str, Any]:
    """What decides the examples of a run: its data section without the weights, which decide how
    often each is trained on."""
    values = as_json(data)
    weighted = any(source.pop("weight", 1) != 1 for source in values["train"])
    return {**values, **({"weighted": True} if weighted else {})}


def running_identity(model: Model) -> dict[str, Any]:
    """The same of a model that is run as it is. In half precision the logits are float32, which
    those of earlier versions were not: what they made is not gone on with. In an engine: what that
    serves, by what the recipe says of it; not where it is, nor how fast. What it was found to serve
    stands in the stage's own folder (teacher.elsewhere)."""
    if (engine := model.engine) is not None:
        behind = {
            "kind": engine.kind,
            "serves": engine.serves,
            "logprobs": engine.logprobs,
            "options": _deciding(shlex.split(engine.command or "")),
        }
        return {**model_identity(model), "engine": behind}
    half = model.dtype != "float32" and (model.dtype != "auto" or pick_device() != "cpu")
    return {**model_identity(model), **({"logits": "float32"} if half else {})}


def tokenizer_fields(model: Model) -> dict[str, Any]:
    """What decides how a model sees text: tokenizer files, chat template, what the recipe says of
    it, and where generation stops, if its generation config names more than one token."""
    said = as_json(model)
    name = model.tokenizer or model.model
    folder = Path(name)
    files = {f: sha256_of(folder / f) for f in TOKENIZER_FILES if (folder / f).is_file()}
    return {
        "name": folder.name if files else name,
        "revision": model.revision,
        "chat_template": model.chat_template,
        "files": files,
        **({"stops": stops} if isinstance(stops := stops_of(Path(model.model)), list) else {}),
        **{key: said[key] for key in Model.LATER if key in said and key != "engine"},
    }


def stops_of(folder: Path) -> int | list[int] | None:
    """The tokens at which generation stops, by the folder's generation config; None where it says
    nothing or is missing."""
    path = folder / "generation_config.json"
    return read_json(path).get("eos_token_id") if path.is_file() else None


def stage_identity(folder: Path, ending: str = "") -> str:
    """One hash over the files that a finished stage signed for, or those with this ending."""
    files = read_json(folder / MANIFEST)["files"]
    chosen = [name for name in sorted(files) if name.endswith(ending)]
    lines = "\n".join(f"{name} {files[name]}" for name in chosen)
    return hashlib.sha256(lines.encode()).hexdigest()


def prepared_hash(folder: RunFolder, path: Path) -> str:
    """The SHA-256 that the stage `prepare` signed for one of its files."""
    manifest = read_manifest(folder.prepare, made_by="prepare")
    return manifest["files"][str(path.relative_to(folder.prepare))]


def prepared_identity(folder: RunFolder, models: list[str]) -> dict[str, str]:
    """The training examples and how each of these models (pivot or source) sees them."""
    paths = [folder.examples("train"), *(folder.rendered(name, "train") for name in models)]
    return {str(path.relative_to(folder.prepare)): prepared_hash(folder, path) for path in paths}


def _folder_identity(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        if folder.is_absolute() or str(folder).startswith((".", "~")):
            raise CheckpointError(
                f"There is no model folder {folder}. Give the path of a folder with config.json "
                "and safetensors weights (relative to the recipe file), or a hub name."
            )
        return {}
    require_one_model(folder)
    names = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    return {path.name: sampled_sha256(path) for path in names if path.is_file()}


def _deciding(words: list[str]) -> list[str]:
    """The options of a server's command with their values, without those of its CAPACITY."""
    found, kept = [], False
    for word in words:
        if word.startswith("-"):
            kept = word.lstrip("-").partition("=")[0] not in CAPACITY
        if kept:
            found.append(word)
    return found
