"""A model as far as its config and the names of its tensors tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from infifusion.merge.checkpoints.architecture import Architecture, Loading, architecture_of

Specs = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape by stored name


@dataclass(frozen=True, eq=False)
class Subject:
    """One model of a merge, or its result."""

    name: str
    folder: str
    config: dict[str, Any]
    specs: Specs
    text: bool = True
    """Whether something of its language model is merged."""

    @cached_property
    def architecture(self) -> Architecture | str:
        """What transformers makes of the config; why not, where it cannot."""
        return architecture_of(self.config)

    @cached_property
    def loading(self) -> Loading | None:
        """How transformers would load it; None where it does not know the architecture."""
        known = self.architecture
        return None if isinstance(known, str) else known.loading(self.specs)
