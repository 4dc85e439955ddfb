"""The record of a merge method: everything that others have to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.strict import Strict


@dataclass(frozen=True)
class Method:
    """One merge method. A method from outside the package may bring such a record, too."""

    function: Callable[[Blocks, Any], Merged]
    """method(blocks, params) -> Merged: it reads the tensor block by block for what it needs to
    know, and gives back the function that merges one block. Raises ValueError for models that it
    cannot merge."""
    params: type[Strict]
    """Its parameters; a field of the type list[float] may differ between the models."""
    line: str = ""
    """What it does, in one line: `infifusion list` prints it."""
    paper: str = ""
    """arXiv number and version, or where else it is described."""
    base: Literal["needed", "optional", "unused"] = "needed"
    """Whether it merges changes from a base, merges whole models as well, or only whole models."""
    unlisted_base: Literal["joins", "joins_with_weight", "left_out"] = "joins"
    """Whether a merge file's base_model that is not among its models is one of them all the same;
    joins_with_weight: only if one weight stands for all models."""
    by_rows: bool = False
    """Whether its blocks hold whole rows of a tensor, however long they are."""
    working_arrays: int = 8
    """float32 arrays of a block beside the models': base, result, scores, draws, sort keys."""
    nanoseconds: float = 4.0
    """Time per position of the result and per model read, on one 2.5 GHz thread, measured on
    500 M positions of three models (docs/performance.md): good for the order of magnitude."""
    ignored: Mapping[str, str] | None = None
    """Parameters of mergekit's that it accepts without effect, and why they have none."""
    as_mergekit: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """The parameters, from those given, with which it does as mergekit does."""
    copies: Callable[[Any], bool] | None = None
    """Whether it copies its only model with these parameters, bit by bit."""
    measure: Callable[[Blocks, Any], Any] | None = None
    """Looks at a tensor before any is merged, where `settle` has use for it."""
    settle: Callable[[dict[str, Any], Any], Mapping[str, Strict]] | None = None
    """From what `measure` found of every tensor, and the parameters: each tensor's parameters."""

    @cached_property
    def parameters(self) -> dict[str, FieldInfo]:
        """The fields of `params` by the names that a file gives them."""
        return {field.alias or name: field for name, field in self.params.model_fields.items()}

    @cached_property
    def per_model(self) -> frozenset[str]:
        """The names of the parameters that may differ between the models."""
        return frozenset(
            name
            for name, field in self.parameters.items()
            if any(get_origin(kind) is list for kind in get_args(field.annotation))
        )
