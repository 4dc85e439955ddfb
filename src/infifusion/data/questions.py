"""What the stages respond and choose both need to know of the prompts."""

from __future__ import annotations

from infifusion.data.files import files_of
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
    return {str(f): sha256_of(f) for source in asked.prompts for f in files_of(source)}
