"""The models of a plan: shapes from config.json, parameters from the headers of local weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError, RecipeError
from infifusion.estimate.costs.case import Facts
from infifusion.estimate.costs.families import FAMILIES
from infifusion.estimate.costs.shapes import Shape, config_called, shape_of
from infifusion.merge.checkpoints.dtypes import BY_NAME, bytes_of
from infifusion.merge.checkpoints.reader import INDEX, SINGLE, Checkpoint, read_config
from infifusion.recipe import Model, Recipe
from infifusion.registry import nearest
from infifusion.store.hashes import sha256_of

# Files that tokenizer.save_pretrained writes beside the weights.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "*.jinja")
# A tokenizer.json of 128k entries with its config; where there is none on this machine.
TOKENIZER_BYTES = 10_000_000
HEADER_ENTRY = 115
"""Bytes that a safetensors header has for a tensor: name, dtype, shape, offsets."""
LARGE_TOKENIZER = 1_500_000  # bytes


def with_folders(recipe: Recipe) -> Recipe:
    """The recipe with its GGUF files as plain folders, which are made where they are not yet."""
    models = (recipe.pivot, *recipe.sources.values())
    if not any(model.gguf_file or _is_no_folder(Path(model.model)) for model in models):
        return recipe
    from infifusion.teacher.gguf import in_folders  # torch: only where it is needed

    return in_folders(recipe)


def _is_no_folder(place: Path) -> bool:
    """Whether something is there that is no plain model folder."""
    return place.exists() and not (place / "config.json").is_file()


def facts_of_all(models: dict[str, Model], shapes: list[str], notes: list[str]) -> dict[str, Facts]:
    """Every model by name. shapes: NAME=SHAPE of the command line. Says in notes how each was
    found. Raises RecipeError or CheckpointError naming the model."""
    given = _given(shapes, models)
    return {name: _facts_of(name, model, given.get(name), notes) for name, model in models.items()}


def _given(shapes: list[str], models: dict[str, Model]) -> dict[str, dict[str, Any]]:
    found = {}
    for text in shapes:
        name, equals, shape = text.partition("=")
        if not equals:
            raise RecipeError(f"--shape {text!r} is not of the form NAME=SHAPE: pivot=8b-llama.")
        if name not in models:
            raise RecipeError(
                f"--shape {text!r}: there is no model '{name}'.{nearest(name, models)} Models: "
                f"{', '.join(models)}."
            )
        found[name] = config_called(shape)
    return found


def _facts_of(name: str, model: Model, given: dict[str, Any] | None, notes: list[str]) -> Facts:
    folder = Path(model.model)
    local = folder.is_dir()
    where = f"{name} ({model.model})"
    config = given if given is not None else _config(name, model)
    weights = given is None and local and any((folder / f).is_file() for f in (SINGLE, INDEX))
    shape = shape_of(config, where=where, guess=weights)
    if weights:
        checkpoint = Checkpoint(folder)
        parameters = sum(checkpoint.stored(tensor).size for tensor in checkpoint)
        tensors = len(checkpoint.names)
        header = _header_bytes(checkpoint)
        how = "counted in its safetensors headers"
        if shape.family not in FAMILIES:
            how += f"; FLOPs as of a Llama, '{shape.family}' is not known"
    else:
        parameters, tensors = shape.parameters, 3 + 9 * shape.layers
        header = HEADER_ENTRY * tensors
        how = "computed from its config.json" if given is None else "taken from --shape"
    notes.append(f"{name}: {parameters / 1e6:,.1f} M parameters, {how}")
    entries, files, identity = _tokenizer(model, shape)
    return Facts(
        shape=shape,
        parameters=parameters,
        counted=weights,
        stored=_bytes_each(config),
        tensors=tensors,
        header=header,
        entries=entries,
        tokenizer=files,
        identity=identity,
    )


def _config(name: str, model: Model) -> dict[str, Any]:
    """config.json of a folder, or of a hub model: that one file is fetched."""
    folder = Path(model.model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{name}: the folder {folder} holds no config.json: not a model folder. Give one "
                "that save_pretrained wrote."
            )
        return read_config(folder)
    if folder.is_absolute() or model.model.startswith((".", "~")):
        raise CheckpointError(
            f"{name}: there is no model folder {folder}. Give the path of a folder with "
            "config.json (relative to the recipe file), or a hub name."
        )
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.model, "config.json", revision=model.revision)
    except Exception as error:  # the hub client raises many kinds: name, network, licence
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name}: {model.model!r} is no folder, and its config.json cannot be fetched from the "
            f"hub ({type(error).__name__}: {reason}). Go online once (`hf download {model.model} "
            f"config.json`), or plan with a public shape: --shape {name}=8b-llama."
        ) from None
    return read_config(Path(path).parent)


def _header_bytes(checkpoint: Checkpoint) -> int:
    """What the weight files hold beside the weights."""
    stored = [checkpoint.stored(name) for name in checkpoint]
    files = {one.file for one in stored}
    size = sum((checkpoint.folder / file).stat().st_size for file in files)
    return size - sum(one.stop - one.start for one in stored)


def _bytes_each(config: dict[str, Any]) -> float:
    """Bytes of a parameter in a saved model: the dtype that the config names, else float32."""
    named = config.get("dtype") or config.get("torch_dtype") or "float32"
    return bytes_of(BY_NAME.get(str(named), "F32"))


def _tokenizer(model: Model, shape: Shape) -> tuple[int, int, str]:
    """Entries, bytes of the files and identity of a model's tokenizer."""
    name = model.tokenizer or model.model
    folder = Path(name)
    if not (folder / "tokenizer.json").is_file():
        return shape.vocabulary, TOKENIZER_BYTES, name
    found = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
    file = folder / "tokenizer.json"
    # Reading a large one takes longer than the rest of a plan; models pad theirs by 1 % or less.
    large = file.stat().st_size > LARGE_TOKENIZER
    return (
        shape.vocabulary if large else _entries(file),
        sum(path.stat().st_size for path in found),
        sha256_of(file),
    )


@cache
def _entries(path: Path) -> int:
    values = json.loads(path.read_text(encoding="utf-8"))
    return len(values["model"]["vocab"]) + len(values.get("added_tokens", []))
