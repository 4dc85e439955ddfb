"""The file that `infifusion merge` reads: mergekit's simple form, checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from infifusion.errors import CheckpointError, RecipeError
from infifusion.strict import Strict, read_yaml

Dtype = Literal["float32", "bfloat16", "float16"]
# Keys of mergekit's that mean something we do not do yet: refused by name, not ignored.
NOT_YET = (
    "slices",
    "modules",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "pad_to_multiple_of",
)
PER_MODEL = ("weight", "density")
WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt")


class MergeModel(Strict):
    """One model of the merge."""

    model: str
    """Folder, relative to the merge file, or hub name."""
    parameters: dict[str, Any] = {}
    """Its weight and density."""


class MergeFile(Strict):
    """A whole merge."""

    merge_method: str
    """A merge method (`infifusion list`), or module:function."""
    base_model: str | None = None
    """The untouched pivot."""
    models: list[MergeModel] = Field(min_length=1)
    """The models to merge; base_model may stand among them."""
    parameters: dict[str, Any] = {}
    """The method's own parameters."""
    dtype: Dtype | None = None
    """dtype of the result, where out_dtype is not given. Arithmetic is always float32."""
    out_dtype: Dtype | None = None
    """dtype of the result; the base's by default."""
    seed: int = 0
    """Decides the draws of the random methods."""


def read_merge_file(path: Path, *, base_override: str | None) -> MergeFile:
    """Read and check; `base_override` replaces base_model."""
    values = read_yaml(path)
    unsupported = [key for key in NOT_YET if key in values]
    if unsupported:
        raise RecipeError(
            f"{path}: the key '{unsupported[0]}' of mergekit is not supported yet. Remove it, or "
            "merge whole models: models, merge_method, base_model, parameters."
        )
    if base_override is not None:
        values["base_model"] = base_override
    return MergeFile.from_mapping(values, where=str(path))


def method_params(file: MergeFile, models: list[MergeModel], *, where: str) -> dict[str, Any]:
    """The method's parameters; per-model ones become lists in the order of `models`.

    A per-model parameter may be left out where all models leave it out, or where the file's own
    `parameters` give it for all. int8_mask is accepted and not needed: masks are bits here.
    """
    params = {key: value for key, value in file.parameters.items() if key != "int8_mask"}
    for model in models:
        unknown = set(model.parameters) - set(PER_MODEL)
        if unknown:
            raise RecipeError(
                f"{where}: {model.model} has the parameter '{sorted(unknown)[0]}'. A model's own "
                f"parameters are {' and '.join(PER_MODEL)}; the method's go under parameters."
            )
    for key in PER_MODEL:
        given = [model.parameters.get(key, params.get(key)) for model in models]
        if any(key in model.parameters for model in models):
            if None in given:
                raise RecipeError(
                    f"{where}: '{key}' is given for some models and not for others. Give it for "
                    "each, or once under parameters."
                )
            if any(isinstance(value, list | dict) for value in given):
                raise RecipeError(
                    f"{where}: '{key}' by layer or by tensor name is not supported yet. Give one "
                    "number per model."
                )
            params[key] = given
    return params


def find_model(name: str, folder: Path) -> Path:
    """A model's folder: relative to the merge file, as given, or fetched from the hub."""
    for candidate in (folder / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.is_dir():
            return candidate.resolve()
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise CheckpointError(f"There is no model folder {name}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(WEIGHT_FILES)))
    except (
        Exception
    ) as error:  # the hub client raises many kinds, all about the name or the network
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name!r} is neither a folder nor a model that the hub gives: {reason}."
        ) from error
