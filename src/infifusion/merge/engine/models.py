"""The models of a merge: found by folder or hub name, with LoRA adapters and layers counted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.lora import Adapter
from infifusion.merge.checkpoints.reader import PICKLES, Checkpoint, read_config, text_config
from infifusion.merge.checkpoints.views import WithLowRank

WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt")
# The first number between dots in a tensor's name is its layer: model.layers.3.mlp.up_proj.weight.
LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
TIED_HEAD = "lm_head.weight"
EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
COMPARED = 1 << 24  # elements of two tensors that are compared at once


@dataclass(frozen=True, eq=False)
class Model:
    """One model: its name in the merge file, folder, weights, config and adapter.

    stack: what stands before the layers' numbers in the names of the tensors, such as
    `model.layers.`; layers: how many there are.
    """

    name: str
    folder: Path
    checkpoint: Checkpoint
    config: dict[str, Any]
    adapter: Adapter | None = None
    stack: str = ""
    layers: int = 0

    @property
    def tied(self) -> bool:
        """Whether the output embeddings are the input embeddings. Some architectures do not say so
        in their config; then the head that is missing does."""
        said = self.config.get("tie_word_embeddings")
        return TIED_HEAD not in self.checkpoint if said is None else bool(said)

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embeddings."""
        return text_config(self.config).get("vocab_size")

    @property
    def key(self) -> tuple[Path, Path | None]:
        """The same for every spelling of the same model."""
        return self.folder, None if self.adapter is None else self.adapter.folder

    def source_of(self, tensor: str) -> str:
        """The stored tensor that stands for `tensor`: a tied head is the input embedding."""
        if tensor == TIED_HEAD and tensor not in self.checkpoint and self.tied:
            return self.embedding or tensor
        return tensor

    @property
    def embedding(self) -> str | None:
        """The name of the input embedding; None where no tensor has one of the usual names."""
        return next((n for n in self.checkpoint.names if n.endswith(EMBEDDINGS)), None)

    @property
    def has_own_head(self) -> bool:
        """Whether the head that is stored is another matrix than the input embedding, whatever the
        config says: transformers 5 then uses the head. Reads both up to their first difference."""
        if TIED_HEAD not in self.checkpoint:
            return False
        if self.adapter is not None and TIED_HEAD in self.adapter.changed:
            return True
        return self.embedding is None or not _same(self.checkpoint, TIED_HEAD, self.embedding)

    def read(self, tensor: str) -> tuple[Any, str]:
        """A stored tensor with the adapter's change: flat array or view, and the dtype of what it
        gives. Raises CheckpointError where the adapter does not fit."""
        array, dtype = self.checkpoint.array(tensor), self.checkpoint.dtype(tensor)
        if self.adapter is None or tensor not in self.adapter.changed:
            return array, dtype
        left, right = self.adapter.factors(tensor)
        if (left.shape[0], right.shape[1]) != self.checkpoint.shape(tensor):
            raise CheckpointError(
                f"{self.adapter.folder} changes {tensor} by [{left.shape[0]}, {right.shape[1]}], "
                f"but {self.folder} has it as {list(self.checkpoint.shape(tensor))}. Give the "
                "model that the adapter was trained on (base_model_name_or_path in its "
                "adapter_config.json)."
            )
        return WithLowRank(array, dtype, left, right), "F32"

    def layer_of(self, tensor: str) -> tuple[int, str] | None:
        """The layer a tensor belongs to, and what stands after its number; None outside."""
        match = LAYER.match(tensor)
        if match is None or match[1] != self.stack:
            return None
        return int(match[2]), match[3]


def _same(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors hold the same bits in the same shape."""
    if checkpoint.stored(one).dtype != checkpoint.stored(other).dtype:
        return False
    if checkpoint.shape(one) != checkpoint.shape(other):
        return False
    a, b = checkpoint.array(one), checkpoint.array(other)
    return all(
        a[start : start + COMPARED].tobytes() == b[start : start + COMPARED].tobytes()
        for start in range(0, len(a), COMPARED)
    )


def open_model(name: str, folder: Path, *, allow_pickle: bool = False) -> Model:
    """The model a merge file names; `folder` is that of the file."""
    base, adapter = _split_adapter(name, folder)
    found = find_model(base, folder, pickles=allow_pickle)
    if allow_pickle:
        from infifusion.merge.checkpoints.pickled import as_safetensors

        found = as_safetensors(found)
    checkpoint = Checkpoint(found)
    config = read_config(found)
    lora = None if adapter is None else Adapter(find_model(adapter, folder), checkpoint)
    stack, layers = _layers(config, checkpoint)
    return Model(name, found, checkpoint, config, lora, stack, layers)


def _layers(config: dict[str, Any], checkpoint: Checkpoint) -> tuple[str, int]:
    """The language model's layers: of the groups of tensors that are numbered from 0 without a gap,
    the one with as many numbers as the config says, or else with the most tensors."""
    numbers: dict[str, set[int]] = {}
    tensors: Counter[str] = Counter()
    for name in checkpoint.names:
        if match := LAYER.match(name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
            tensors[match[1]] += 1
    said = [text_config(config).get(key) for key in LAYER_COUNTS]
    whole = [prefix for prefix, found in numbers.items() if found == set(range(len(found)))]
    if not whole:
        return "", 0
    best = max(whole, key=lambda prefix: (len(numbers[prefix]) in said, tensors[prefix], prefix))
    return best, len(numbers[best])


def find_model(name: str, folder: Path, *, pickles: bool = False) -> Path:
    """A model's folder: relative to the merge file, as given, or fetched from the hub."""
    for candidate in (folder / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.is_dir():
            return candidate.resolve()
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise CheckpointError(
            f"There is no model folder {name}. Give a folder relative to the merge file, "
            "an absolute "
            "one, or a hub name."
        )
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=[*WEIGHT_FILES, *(PICKLES if pickles else ())],
            )
        )
    except (
        Exception
    ) as error:  # the hub client raises many kinds, all about the name or the network
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name!r} is neither a folder nor a model that the hub gives: {reason}. Folders are "
            "relative to the merge file; gated models need `hf auth login`."
        ) from error


def _split_adapter(name: str, folder: Path) -> tuple[str, str | None]:
    """model+adapter in two; a folder may have a plus in its name."""
    if (folder / Path(name).expanduser()).is_dir() or Path(name).expanduser().is_dir():
        return name, None
    model, plus, adapter = name.rpartition("+")
    return (model, adapter) if plus and model else (name, None)
