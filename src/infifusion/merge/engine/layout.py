"""One architecture in two layouts: a model's tensors under the names, and in the shapes, in which
another model stores its own.

transformers tells, for each stored tensor, which tensor of the model it becomes. Where only names
differ (`model.language_model.` against `language_model.model.`, with and without `model.`), the
tensors are read under the other names. Where they are cut otherwise (experts in one tensor or one
by one), a converted copy is made that lasts as long as this process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.architecture import Architecture, quiet
from infifusion.merge.checkpoints.dtypes import NAME_OF
from infifusion.merge.checkpoints.reader import SINGLE, Checkpoint
from infifusion.merge.checkpoints.renamed import AnyCheckpoint, Renamed
from infifusion.merge.checkpoints.writer import SHARD_BYTES, Spec, temporary_model, write_index
from infifusion.merge.engine.model import (
    COMPUTED,
    LAYER,
    OPTIONAL,
    TIED_HEAD,
    Model,
    with_checkpoint,
)

Entries = dict[str, list[tuple[str, str | None]]]  # own name -> stored names and their converters


@dataclass(frozen=True)
class _Two:
    """A model, and the donor whose layout it is to have. reader: what knows the model's stored
    names; writer: what knows the donor's; home, new_home: what stands before the language model's
    tensors in the reader's own names and in the writer's."""

    model: Model
    donor: Model
    reader: Architecture
    writer: Architecture
    home: str = ""
    new_home: str = ""

    @cached_property
    def theirs(self) -> Entries:
        """The donor's stored names."""
        return _entries(self.writer, self.donor.checkpoint)

    @cached_property
    def own(self) -> Entries:
        """The model's; where the donor has a head that the model ties to its embedding, that."""
        found = _entries(self.reader, self.model.checkpoint)
        lacks = TIED_HEAD in self.theirs and TIED_HEAD not in found
        if self.is_part and lacks and self.model.tied and self.model.embedding:
            found[TIED_HEAD] = [(self.model.embedding, None)]
        return found

    @property
    def is_part(self) -> bool:
        """Whether one of the two is the language model inside of the other."""
        return self.home != self.new_home

    def moved(self, own: str) -> str:
        """The writer's own name for one of the reader's."""
        if self.is_part and own.startswith(self.home):
            return self.new_home + own.removeprefix(self.home)
        return own

    def wanted(self, own: str) -> list[tuple[str, str | None]]:
        """How the donor would store one of the model's tensors."""
        name = self.moved(own)
        return self.theirs.get(name) or _of_another_layer(name, self.theirs)


def in_layout_of(donor: Model, model: Model) -> Model:
    """The model with its tensors under the donor's names; itself where it has them already, or
    where transformers does not know one of the two. A language model gets the names that the one
    inside of a donor that sees or hears has, and the other way round."""
    odd = set(model.checkpoint.names) ^ set(donor.checkpoint.names)
    if all(name == TIED_HEAD or COMPUTED.search(name) or OPTIONAL.search(name) for name in odd):
        return model
    one, other = donor.architecture, model.architecture
    if isinstance(one, str) or isinstance(other, str):
        return model
    two = _two(donor, model, one, other)
    origin: dict[str, str] = {}
    cut_otherwise: list[str] = []
    for key, entries in two.own.items():
        wanted = two.wanted(key)
        if not wanted:  # optional, or an error that is found where the names are compared
            origin |= {stored: stored for stored, _ in entries}
        elif {p for _, p in wanted} == {p for _, p in entries} and len(wanted) == len(entries):
            origin |= {to: stored for (to, _), (stored, _) in zip(wanted, entries, strict=True)}
        else:
            cut_otherwise.append(key)
    if not cut_otherwise:
        if all(to == stored for to, stored in origin.items()):
            return model
        renamed = Renamed(model.checkpoint, origin, model.folder)
    else:
        checkpoint = Checkpoint(_convert(two, origin, cut_otherwise))
        renamed = Renamed(checkpoint, {name: name for name in checkpoint.names}, model.folder)
    found = with_checkpoint(model, renamed)
    return replace(found, whole=model) if two.is_part else found


def _two(donor: Model, model: Model, one: Architecture, other: Architecture) -> _Two:
    if type(other.model) is type(one.model):
        return _Two(model, donor, other, one)
    if (one.text is one.config) == (other.text is other.config):
        return _Two(model, donor, one, one)
    homes = [_home(architecture) for architecture in (other, one)]
    if None in homes:
        return _Two(model, donor, one, one)
    return _Two(model, donor, other, one, *[home or "" for home in homes])


def _home(architecture: Architecture) -> str | None:
    """What stands before the names of the language model's tensors."""
    if architecture.stack is None:
        return None
    above = architecture.stack.removesuffix(".").rpartition(".")[0]
    return f"{above}." if above else ""


def _entries(architecture: Architecture, checkpoint: AnyCheckpoint) -> Entries:
    found: Entries = {}
    for stored in sorted(checkpoint.names, key=_natural):
        own, pattern = architecture.own_name(stored)
        found.setdefault(own, []).append((stored, pattern))
    return found


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers between dots in their order."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def _of_another_layer(own: str, theirs: Entries) -> list[tuple[str, str | None]]:
    """How the donor would store a layer that it does not have: as any of its own."""
    match = LAYER.match(own)
    if match is None:
        return []
    before, number, after = match.groups()
    for key, entries in theirs.items():
        other = LAYER.match(key)
        if other and (other[1], other[3]) == (before, after):
            moved = [(LAYER.match(stored), pattern) for stored, pattern in entries]
            if all(place is not None and place[2] == other[2] for place, _ in moved):
                return [(f"{p[1]}{number}{p[3]}", pattern) for p, pattern in moved if p]
    return []


def _convert(two: _Two, origin: dict[str, str], cut_otherwise: list[str]) -> Path:
    """A copy of the model with the donor's tensors. Raises CheckpointError where transformers
    cannot make them."""
    from safetensors.torch import save_file

    place, model = temporary_model("layout"), two.model
    shards: dict[str, list[str]] = {}
    specs: dict[str, Spec] = {}
    waiting: dict[str, Any] = {}

    def flush() -> None:
        file = f"model-{len(shards) + 1:05d}.safetensors"
        save_file(waiting, place / file, metadata={"format": "pt"})
        shards[file] = list(waiting)
        waiting.clear()

    try:
        with quiet():
            for name, tensor in _tensors(two, origin, cut_otherwise):
                waiting[name] = tensor.contiguous()
                specs[name] = Spec("F32", tuple(tensor.shape))
                if sum(t.nbytes for t in waiting.values()) > SHARD_BYTES // 4:
                    flush()
            if waiting:
                flush()
    except CheckpointError:
        raise
    except Exception as error:  # the library raises many kinds for what it cannot convert
        raise CheckpointError(
            f"{model.folder} ({model.name}) stores {cut_otherwise[0]} otherwise than "
            f"{two.donor.folder}, and transformers cannot bring it into that layout: "
            f"{error!s:.300}. Load the model with transformers and save it again."
        ) from error
    if len(shards) == 1:
        (place / next(iter(shards))).rename(place / SINGLE)
    else:
        write_index(place, shards, specs)
    return place


def _tensors(
    two: _Two, origin: dict[str, str], cut_otherwise: list[str]
) -> Iterator[tuple[str, Any]]:
    """Every tensor by the name that the donor gives it, one group of experts in memory."""
    from transformers.core_model_loading import revert_weight_conversion

    for to, stored in origin.items():
        yield to, for_torch(two.model, stored)
    known = set(two.donor.checkpoint.names)
    writer = two.writer if two.is_part else two.reader
    for key in cut_otherwise:
        for name, tensor in _joined(two, key).items():
            wanted = two.wanted(name)
            if [pattern for _, pattern in wanted] == [None]:
                yield wanted[0][0], tensor
                continue
            parts = revert_weight_conversion(writer.model, {two.moved(name): tensor})
            names = {stored for stored, _ in wanted} or known
            for part, values in parts.items():
                yield _named_as(part, names, two.model), values


def _joined(two: _Two, key: str) -> dict[str, Any]:
    """The model's own tensors that are made of the stored ones of one key."""
    entries, model = two.own[key], two.model
    pattern = entries[0][1]
    if pattern is None:
        return {key: for_torch(model, entries[0][0])}
    _, converters = two.reader.conversions
    converter = deepcopy(next(one for one in converters if pattern in one.source_patterns))
    for stored, source in entries:
        converter.add_tensor(key, stored, source, for_torch(model, stored))
    made = converter.convert(key, model=two.reader.model, config=two.reader.model.config)
    return {name: one[0] if isinstance(one, list) else one for name, one in made.items()}


def _named_as(part: str, names: set[str], model: Model) -> str:
    if part in names:
        return part
    ends = [one for one in names if one.endswith(f".{part}") or part.endswith(f".{one}")]
    if len(ends) != 1:
        raise CheckpointError(
            f"{model.folder} ({model.name}): no place for {part} among the base's tensors. Load "
            "the model with transformers and save it again."
        )
    return ends[0]


def for_torch(model: Model, name: str) -> Any:
    """A stored tensor for torch, which must not write into the file's memory; with what an adapter
    changes, in the dtype in which it is stored."""
    import torch

    stored, shape = model.checkpoint.dtype(name), model.shape(name)
    values, dtype = model.read(name)
    array = np.array(values[0 : math.prod(shape)])
    flat = torch.from_numpy(array.view(np.int16) if dtype == "BF16" else array)
    if dtype in NAME_OF:
        flat = flat.view(getattr(torch, NAME_OF[dtype]))
    if dtype != stored:
        flat = flat.to(getattr(torch, NAME_OF[stored]))
    return flat.reshape(shape)
