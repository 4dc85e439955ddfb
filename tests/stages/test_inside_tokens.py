"""A target that also teaches inside of a source's tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import infifusion
from infifusion.data.store import load_target
from infifusion.errors import RecipeError
from infifusion.recipe import Recipe
from infifusion.stages.check import check_recipe

TARGETS = {
    name: {"function": "uncertainty", "gate": "none", "sources": ["big"], **more}
    for name, more in {
        "plain": {},
        "inside": {"inside": 0.001},
        "online": {"inside": 0.001, "teacher": "online"},
    }.items()
}


def test_more_positions_are_taught_and_the_others_stay_as_they_are(
    suite: Path, make_recipe: Callable[..., dict], tmp_path: Path
) -> None:
    runs = {name: {"target": name} for name in TARGETS}
    # The source has longer tokens than the pivot.
    models = {
        "pivot": {"model": str(suite / "c")},
        "sources": {"big": {"model": str(suite / "pivot")}},
    }
    recipe = make_recipe(suite, fuse=TARGETS, distill=runs, merge={}, **models)
    found = infifusion.run(recipe, tmp_path / "out", until="distill").folder
    plain, inside = (load_target(found / "fuse" / name) for name in ("plain", "inside"))
    before = plain.taught_T
    assert inside.taught_T[before].all() and inside.taught_T.sum() > before.sum()
    assert np.array_equal(plain.ids_TK[before], inside.ids_TK[before])
    assert np.array_equal(plain.prob_TK[before], inside.prob_TK[before])
    counts = [
        json.loads((found / "fuse" / name / "manifest.json").read_text())["counts"]["sources"][
            "big"
        ]
        for name in ("plain", "inside")
    ]
    assert counts[0]["inside"] == 0
    assert counts[1]["inside"] == counts[1]["aligned"] - counts[0]["aligned"] > 0
    # Without a cache the rows are the same, but for float16, so that the losses are.
    plain_run, inside_run, online_run = (
        [step["divergence"] for step in json.loads(path.read_text())["log"] if "loss" in step]
        for path in (found / "distill" / name / "history.json" for name in TARGETS)
    )
    assert len(inside_run) == 4 and inside_run == pytest.approx(online_run, rel=0.02)
    assert inside_run != pytest.approx(plain_run, rel=0.02)


def test_a_loss_that_reads_logits_is_refused(suite: Path, make_recipe: Callable[..., dict]) -> None:
    runs = {"fused": {"target": "inside", "loss": "uld"}}
    sources = {"big": {"model": str(suite / "pivot")}}
    recipe = make_recipe(suite, fuse=TARGETS, distill=runs, merge={}, sources=sources)
    with pytest.raises(RecipeError, match=r"distill\.fused: the loss uld reads .* logits"):
        check_recipe(Recipe(**recipe))
    wrong = {"inside": {**TARGETS["inside"], "alignment": "min_ed"}}
    with pytest.raises(RecipeError, match="inside needs alignment: bytes"):
        Recipe.from_mapping(make_recipe(suite, fuse=wrong, distill={}, merge={}), where="here")
