"""One model of a merge: its tensors with its adapter, and its layers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from infifusion.merge.checkpoints.architecture import Architecture, architecture_of
from infifusion.merge.checkpoints.lora import Adapter
from infifusion.merge.checkpoints.reader import LAYER, LAYER_COUNTS, text_config
from infifusion.merge.checkpoints.renamed import AnyCheckpoint

# Stacks of layers that read pictures or sound.
TOWERS = re.compile(r"vision|visual|image|audio|speech|img|sam_|vpm|apm|encoder\.")
# Buffers that some versions of the libraries save and others compute.
COMPUTED = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|rope\.freqs$")
# Tensors that no language model needs: they predict further tokens, or values, or only count.
OPTIONAL = re.compile(r"(^|\.)(mtp|v_head|value_head)\.|(^|\.)position_ids$")
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
    checkpoint: AnyCheckpoint
    config: dict[str, Any]
    adapter: Adapter | None = None
    stack: str = ""
    layers: int = 0
    more_folders: tuple[Path, ...] = ()
    """Folders of adapters that were merged before anything is read."""
    whole: Model | None = None
    """The model as it is stored, where this is a part of it, under names that do not fit its
    config."""
    language: str = ""
    """The stack of the language model, where this is another part of a model."""
    beside: Path | None = None
    """Where its tokenizer and other small files are, where not in its folder."""

    @property
    def home(self) -> Path:
        """The folder of its tokenizer and other small files."""
        return self.beside or self.folder

    @cached_property
    def architecture(self) -> Architecture | str:
        """What transformers makes of the config; why not, where it cannot."""
        return architecture_of(self.config) if self.whole is None else self.whole.architecture

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a stored tensor; an adapter may have given it more rows."""
        if self.adapter is not None:
            return self.adapter.shape(tensor)
        return self.checkpoint.shape(tensor)

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
    def rows(self) -> int | None:
        """Rows of the input embedding, with an adapter's."""
        return None if self.embedding is None else self.shape(self.embedding)[0]

    @property
    def stored_rows(self) -> int | None:
        """Rows of the input embedding without an adapter."""
        return None if self.embedding is None else self.checkpoint.shape(self.embedding)[0]

    @property
    def key(self) -> tuple[Path, ...]:
        """The same for every spelling of the same model."""
        return self.folder, *self.adapters

    @property
    def adapters(self) -> tuple[Path, ...]:
        """The folders of its adapters."""
        return (*self.more_folders, *([self.adapter.folder] if self.adapter else []))

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
        changed = self.adapter.changed if self.adapter is not None else ()
        if TIED_HEAD in changed or self.embedding in changed:
            return True
        return self.embedding is None or not _same(self.checkpoint, TIED_HEAD, self.embedding)

    def read(self, tensor: str) -> tuple[Any, str]:
        """A stored tensor with the adapter's change: flat array or view, and the dtype of what it
        gives."""
        array, dtype = self.checkpoint.array(tensor), self.checkpoint.dtype(tensor)
        return (array, dtype) if self.adapter is None else self.adapter.apply(tensor, array, dtype)

    def layer_of(self, tensor: str) -> tuple[int, str] | None:
        """The layer a tensor belongs to, and what stands after its number; None outside."""
        match = LAYER.match(tensor)
        if match is None or match[1] != self.stack:
            return None
        return int(match[2]), match[3]


def _same(checkpoint: AnyCheckpoint, one: str, other: str) -> bool:
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


def with_checkpoint(model: Model, checkpoint: AnyCheckpoint) -> Model:
    """The model with other tensors, its layers counted anew."""
    stack, layers = layers_of(model.config, checkpoint)
    return replace(model, checkpoint=checkpoint, stack=stack, layers=layers)


def layers_of(config: dict[str, Any], checkpoint: AnyCheckpoint) -> tuple[str, int]:
    """The language model's layers: of the groups of tensors that are numbered from 0 without a gap,
    the one beside the token embedding, or else with as many numbers as the config says, no tower of
    pictures or sound, with the most tensors. Numbers beyond the config's are no layers: they
    predict further tokens."""
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
    homes = {name[: -len(end)] for end in EMBEDDINGS for name in checkpoint.names
             if name.endswith(end)}  # fmt: skip

    def fits(prefix: str) -> tuple[bool, bool, bool, int, str]:
        beside = any(prefix.startswith(home) and prefix[len(home) :].count(".") == 1
                     for home in homes)  # fmt: skip
        tower = bool(TOWERS.search(prefix))
        return beside, not tower, len(numbers[prefix]) in said, tensors[prefix], prefix

    best = max(whole, key=fits)
    count = next((n for n in said if type(n) is int and 0 < n < len(numbers[best])), None)
    return best, count or len(numbers[best])
