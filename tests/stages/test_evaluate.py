"""What decides a model's scores."""

from __future__ import annotations

from pathlib import Path

from infifusion.recipe import Recipe
from infifusion.stages.evaluate import settings_of


def test_scores_of_a_sample_of_the_items_belong_to_the_seed_that_drew_it(make_recipe) -> None:
    def settings(seed: int, **evaluate: int) -> dict:
        values = make_recipe(Path("models"), seed=seed, evaluate=evaluate)
        return settings_of(Recipe.from_mapping(values, where="here"))

    assert settings(0) == settings(1)
    assert settings(0, limit=5) == settings(0, limit=5)
    assert settings(0, limit=5) != settings(1, limit=5)
    assert settings(0, limit=5) != settings(0, limit=6)
