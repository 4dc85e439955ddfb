"""What the stages respond and choose both need to know of the prompts."""

from __future__ import annotations

from pathlib import Path

from infifusion.errors import RecipeError
from infifusion.recipe import Recipe, WriteResponses
from infifusion.store.hashes import sha256_of


def write_responses_of(recipe: Recipe) -> WriteResponses:
    """The recipe's section; RecipeError where it has none."""
    if recipe.write_responses is None:
        raise RecipeError(
            "The recipe has no section write_responses, so no source can answer. Add it with its "
            "prompts (docs/recipe.md)."
        )
    return recipe.write_responses


def responding_sources(recipe: Recipe) -> list[str]:
    """The sources that answer, in the order that decides ties; none without the section."""
    if recipe.write_responses is None:
        return []
    return recipe.write_responses.sources or list(recipe.sources)


def prompt_files(asked: WriteResponses) -> dict[str, str]:
    """SHA-256 of every local file of prompts."""
    return {s.path: sha256_of(Path(s.path)) for s in asked.prompts if Path(s.path).is_file()}
