"""Sweep files that are wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fields import misspelt, out_of_range, spots, with_value, wrong_types
from refusals import assert_refused

from infifusion.sweep.file import Sweep

RECIPE: dict[str, Any] = {
    "pivot": {"model": "p"},
    "sources": {"a": {"model": "models/{kind}"}},
    "data": {"train": [{"path": "x.jsonl", "domain": "d"}]},
    "fuse": {"u": {"function": "mean"}},
    "distill": {"sft": {}, "u": {"target": "u", "gold_weight": [0.1, 0.5]}},
}
SWEEP: dict[str, Any] = {"name": "s", "recipe": RECIPE, "settings": {"kind": ["narrow", "wide"]}}
SPOTS = {spot.path: spot for spot in spots(Sweep, SWEEP)}


def recipe(**changes: object) -> dict[str, Any]:
    return {**SWEEP, "recipe": {**RECIPE, **changes}}


WRONG: dict[str, tuple[object, str]] = {
    "nothing": ("", "holds nothing"),
    "a recipe": ({"name": "r", **RECIPE}, "is a recipe .*, not a sweep file: infifusion run "),
    "a recipe that is gone": ({**SWEEP, "recipe": "gone.yaml"}, "There is no file .*gone.yaml"),
    "a list for a recipe": ({**SWEEP, "recipe": [RECIPE]}, "recipe"),
    "two seeds alike": ({**SWEEP, "seeds": [1, 1]}, "seeds names a seed twice"),
    "a seed below zero": ({**SWEEP, "seeds": [-1]}, "seed: .*greater than or equal to 0"),
    "a seed too large": ({**SWEEP, "seeds": [2**32]}, "seed: .*less than 4294967296"),
    "no value": ({**SWEEP, "settings": {"kind": []}}, "kind: .*found an empty list"),
    "an unknown setting": ({**SWEEP, "settings": {"knid": [1]}}, "{knid} stands nowhere"),
    "a setting below a word": (
        {**SWEEP, "settings": {"kind": ["x"], "name.x": [1]}},
        "no 'x' to go",
    ),
    "an unknown arm": ({**SWEEP, "arms": ["uu"]}, "arms: there is no model 'uu'. Did you mean 'u'"),
    "against no arm": ({**SWEEP, "arms": ["u"], "against": ["sft"]}, "'sft' is not among the arms"),
    "an unknown key inside": (recipe(teach={"topk": [1, 2]}), "teach.topk: there is no such key"),
    "a list of wrong values": (
        recipe(teach={"top_k": [1, 0]}),
        "top_k: .*greater than or equal to 1",
    ),
    "entries in a list": (recipe(fuse=[{}]), "fuse: expected a mapping"),
    "an entry that is none": (recipe(fuse={"u": 3}), "fuse.u: "),
    "a name that is none": (recipe(fuse={3: {}}), "fuse.3"),
    "a target that is none": (recipe(distill={"u": {"target": {"u": 1}}}), "distill.u.target"),
    "a start that is none": (recipe(distill={"u": {"start": {"u": 1}}}), "distill.u.start"),
    "too many settings": (
        recipe(training={k: list(range(99)) for k in "abc"}),
        "1,940,598 combinations",
    ),
    "too many arms": (
        recipe(fuse={"u": {"params": {k: list(range(99)) for k in "abc"}}}),
        "fuse.u: its lists stand for 970,299 combinations; .*Vary less at a time",
    ),
}


def refused(folder: Path, values: object, says: str) -> None:
    path = folder / "sweep.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    out = folder / "out"
    assert_refused("sweep", path, "--run-dir", out, says=says, untouched=out)
    assert not out.exists()


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_sweep_file_is_refused(kind: str, tmp_path: Path) -> None:
    values, says = WRONG[kind]
    refused(tmp_path, values, says)


@pytest.mark.parametrize("path", SPOTS)
def test_a_field_that_is_wrong_is_named(path: str, tmp_path: Path) -> None:
    spot = SPOTS[path]
    for value in [*wrong_types(spot.field.annotation), *out_of_range(spot.field)]:
        refused(tmp_path, with_value(SWEEP, spot, value), "sweep.yaml")
    values, wrong = misspelt(SWEEP, spot)
    refused(tmp_path, values, rf"{wrong}: there is no such key. Did you mean '{re.escape(path)}'")


def test_the_walk_finds_every_field() -> None:
    assert list(SPOTS) == list(Sweep.model_fields) and len(SPOTS) >= 7
