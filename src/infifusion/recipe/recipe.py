"""The whole recipe, its stages, and how it is read from a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from infifusion.errors import RecipeError
from infifusion.recipe.data import DataFile
from infifusion.recipe.fields import Fields
from infifusion.recipe.models import Model
from infifusion.recipe.plan import Plan
from infifusion.recipe.references import problems_of
from infifusion.registry import nearest
from infifusion.strict import Strict, override, read_yaml, require_kind

STAGES = (
    "respond",
    "choose",
    "prepare",
    "teach",
    "fuse",
    "distill",
    "merge",
    "evaluate",
    "report",
)


class Recipe(Fields):
    """A whole run."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        problems = list(problems_of(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def resolve(self) -> Plan:
        """The recipe with every `each` written out."""
        return Plan.of(self)


def load_recipe(path: Path, assignments: Iterable[str] = ()) -> Recipe:
    """Read, override, validate; relative paths become absolute, from the recipe's folder."""
    values = read_yaml(path)
    require_kind(values, "recipe", path)
    values = override(values, list(assignments))
    recipe = Recipe.from_mapping(values, where=str(path))
    return anchor(recipe, path.parent.resolve())


def anchor(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every local path that exists under `folder` made absolute."""

    def place(text: str | None) -> str | None:
        if text is None or Path(text).is_absolute():
            return text
        candidate = folder / Path(text).expanduser()
        # A first part that is here means a folder, and a mistyped rest is not looked up on the hub.
        here = candidate.exists() or (folder / text.partition("/")[0]).is_dir()
        return str(candidate) if here or text.startswith((".", "~")) else text

    def place_model(model: Model) -> Model:
        return model.model_copy(
            update={"model": place(model.model), "tokenizer": place(model.tokenizer)}
        )

    def place_data(sources: Sequence[DataFile]) -> list[DataFile]:
        return [s.model_copy(update={"path": place(s.path)}) for s in sources]

    data = recipe.data.model_copy(
        update={
            "train": place_data(recipe.data.train),
            "held_out": place_data(recipe.data.held_out),
            "decontaminate": place_data(recipe.data.decontaminate),
        }
    )
    asked = recipe.write_responses
    if asked is not None:
        asked = asked.model_copy(update={"prompts": place_data(asked.prompts)})
    return recipe.model_copy(
        update={
            "write_responses": asked,
            "pivot": place_model(recipe.pivot),
            "sources": {name: place_model(model) for name, model in recipe.sources.items()},
            "data": data,
            "evaluate": recipe.evaluate.model_copy(update={"data": place(recipe.evaluate.data)}),
        }
    )


def as_json(config: Strict) -> dict[str, Any]:
    """A configuration as plain JSON values, for manifests."""
    return json.loads(config.model_dump_json(by_alias=True))


def as_written(config: Strict) -> dict[str, Any]:
    """The same without the fields that were left to their defaults: what a YAML file would say."""
    return json.loads(config.model_dump_json(by_alias=True, exclude_unset=True))


def require_stage(name: str) -> str:
    """The stage's name; RecipeError when there is none."""
    if name not in STAGES:
        raise RecipeError(
            f"There is no stage '{name}'.{nearest(name, STAGES)} Stages: {', '.join(STAGES)}."
        )
    return name
