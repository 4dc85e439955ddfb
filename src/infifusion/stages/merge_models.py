"""The models of a merge: found by folder or hub name, with LoRA adapters and layers counted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.weights.lora import Adapter
from infifusion.weights.reader import Checkpoint, read_config

WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt")
# The first number between dots in a tensor's name is its layer: model.layers.3.mlp.up_proj.weight.
LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
TIED_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Model:
    """One model: its name in the merge file, folder, weights, config and adapter."""

    name: str
    folder: Path
    checkpoint: Checkpoint
    config: dict[str, Any]
    adapter: Adapter | None = None
    layers: int = field(default=0)

    @property
    def tied(self) -> bool:
        """Whether the output embeddings are the input embeddings."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embeddings."""
        return text_config(self.config).get("vocab_size")

    def source_of(self, tensor: str) -> str:
        """The stored tensor that stands for `tensor`: a tied head is the input embedding."""
        if tensor == TIED_HEAD and tensor not in self.checkpoint and self.tied:
            for name in self.checkpoint.names:
                if name.endswith(("embed_tokens.weight", "wte.weight")):
                    return name
        return tensor

    def __hash__(self) -> int:
        return hash(self.name)


def open_model(name: str, folder: Path, *, allow_pickle: bool = False) -> Model:
    """The model a merge file names; `folder` is that of the file."""
    base, adapter = _split_adapter(name, folder)
    found = find_model(base, folder)
    if allow_pickle:
        from infifusion.weights.pickled import as_safetensors

        found = as_safetensors(found)
    checkpoint = Checkpoint(found)
    config = read_config(found)
    lora = None if adapter is None else Adapter(find_model(adapter, folder), checkpoint)
    return Model(name, found, checkpoint, config, lora, layer_count(config, checkpoint))


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the language model."""
    return config.get("text_config") or config


def layer_count(config: dict[str, Any], checkpoint: Checkpoint) -> int:
    """Number of layers, from the config, or else from the tensors' names."""
    for key in LAYER_COUNTS:
        if isinstance(text_config(config).get(key), int):
            return text_config(config)[key]
    found = [int(match[2]) for name in checkpoint.names if (match := LAYER.match(name))]
    return max(found, default=-1) + 1


def find_model(name: str, folder: Path) -> Path:
    """A model's folder: relative to the merge file, as given, or fetched from the hub."""
    for candidate in (folder / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.is_dir():
            return candidate.resolve()
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise CheckpointError(f"There is no model folder {name}.")
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(WEIGHT_FILES)
            )
        )
    except (
        Exception
    ) as error:  # the hub client raises many kinds, all about the name or the network
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name!r} is neither a folder nor a model that the hub gives: {reason}."
        ) from error


def _split_adapter(name: str, folder: Path) -> tuple[str, str | None]:
    """model+adapter in two; a folder may have a plus in its name."""
    if (folder / Path(name).expanduser()).is_dir() or Path(name).expanduser().is_dir():
        return name, None
    model, plus, adapter = name.rpartition("+")
    return (model, adapter) if plus and model else (name, None)
