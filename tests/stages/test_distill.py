"""What a training run leaves in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from infifusion.recipe import Recipe
from infifusion.stages.distill import distill
from infifusion.stages.prepare import prepare
from infifusion.store.folders import RunFolder


def weights_in_memory() -> int:
    return sum(type(one) is torch.nn.Parameter for one in gc.get_objects())


def test_a_training_run_leaves_no_weights_to_the_next(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    """Trainer, model and optimizer refer to one another, and Python looks for such circles when it
    pleases: the second run of 7 billion parameters would have to find 84 GB beside the first's."""
    values = make_recipe(suite, fuse={}, distill={"sft": {}}, merge={})
    recipe, folder = Recipe.from_mapping(values, where="here"), RunFolder(tmp_path / "run")
    prepare(recipe, folder)
    gc.collect()
    before = weights_in_memory()
    gc.disable()
    try:
        distill(recipe, folder, recipe.resolve().runs[0])
        assert weights_in_memory() == before
    finally:
        gc.enable()
