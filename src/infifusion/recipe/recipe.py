"""The whole recipe, its stages, and how it is read from a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeVar

from pydantic import model_validator

from infifusion.errors import RecipeError
from infifusion.recipe.fields import Fields
from infifusion.recipe.models import Model
from infifusion.recipe.references import RESERVED, problems_of
from infifusion.recipe.resolved import Resolved
from infifusion.recipe.steps import Merge
from infifusion.registry import nearest
from infifusion.strict import Strict, override, read_yaml, require_kind

Section = TypeVar("Section", bound=Strict)
STAGES = (
    "respond",
    "choose",
    "prepare",
    "tune",
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

    def resolve(self) -> Resolved:
        """The recipe with every `each` written out."""
        return Resolved.of(self)


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
        here = candidate.exists() or (folder / text.partition("/")[0]).is_dir() or "*" in text
        return str(candidate) if here or text.startswith((".", "~")) else text

    def placed(section: Section, *fields: str) -> Section:
        return section.model_copy(update={key: place(getattr(section, key)) for key in fields})

    def placed_model(model: Model) -> Model:
        placed_one = placed(model, "model", "tokenizer")
        template = model.chat_template
        if template is None or "{" in template:
            return placed_one
        file = folder / Path(template).expanduser()
        if not file.is_file():
            raise RecipeError(
                f"chat_template: {template!r} is neither a Jinja template nor the path of one: "
                f"there is no {file}. Write the template itself, or its file's path from the "
                "recipe's folder."
            )
        text = file.read_text(encoding="utf-8")
        return placed_one.model_copy(update={"chat_template": text})

    def with_files(section: Section, *fields: str) -> Section:
        files = {key: [placed(one, "path") for one in getattr(section, key)] for key in fields}
        return section.model_copy(update=files)

    made = {*recipe.distill, *recipe.merge, *RESERVED}

    def with_models(merge: Merge) -> Merge:
        def model(text: str) -> str | None:
            whole = "+" not in text or (folder / Path(text).expanduser()).is_dir()
            return place(text) if whole else "+".join(str(place(part)) for part in text.split("+"))

        models = [one if one in made or "/" not in one else model(one) for one in merge.models]
        return merge.model_copy(update={"models": models})

    asked = recipe.write_responses
    return recipe.model_copy(
        update={
            "write_responses": None if asked is None else with_files(asked, "prompts"),
            "pivot": placed_model(recipe.pivot),
            "sources": {name: placed_model(one) for name, one in recipe.sources.items()},
            "data": with_files(recipe.data, "train", "held_out", "decontaminate", "prompts"),
            "evaluate": placed(recipe.evaluate, "data"),
            "merge": {name: with_models(one) for name, one in recipe.merge.items()},
        }
    )


def require_stage(name: str) -> str:
    """The stage's name; RecipeError when there is none."""
    if name not in STAGES:
        raise RecipeError(
            f"There is no stage '{name}'.{nearest(name, STAGES)} Stages: {', '.join(STAGES)}."
        )
    return name
