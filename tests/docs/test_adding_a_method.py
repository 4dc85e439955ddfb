"""The worked example of docs/adding.md, performed: its files, its recipe, a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_blocks import ROOT, blocks_of
from safetensors.numpy import load_file
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.store.records import read_json

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "adding.md"
LIMIT = 5.75


@pytest.fixture(scope="module")
def out(suite: Path, make_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the page's recipe, its methods beside it on the path."""
    folder = tmp_path_factory.mktemp("adding")
    blocks = blocks_of(PAGE)
    for block in blocks:
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
    (shown,) = [yaml.safe_load(block.text) for block in blocks if block.language == "yaml"]
    # The tests' untrained models are as unsure as can be: about the logarithm of their vocabulary.
    shown["fuse"]["sure"]["params"]["limit"] = LIMIT
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe(suite, **shown)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for command in (
            ["check", str(recipe)],
            ["run", str(recipe), "--run-dir", str(folder / "out")],
        ):
            result = CliRunner().invoke(cli.app, command)
            assert result.exception is None, result.exception
    return folder / "out"


def test_the_fusion_function_decides_who_speaks(out: Path) -> None:
    weight_ST = np.load(out / "fuse" / "sure" / "weight_ST.npy")
    # ln 305 and ln 295 are under the limit, ln 335 of the second source is over it.
    assert weight_ST.shape[0] == 3 and not weight_ST[1].any()
    assert (weight_ST[0] == 0.5).any() and (
        weight_ST[[0, 2]].sum(axis=0)[weight_ST[0] > 0] == 1
    ).all()


def test_the_loss_trains(out: Path) -> None:
    runs = {run["name"]: run for run in read_json(out / "resolved.json")["plan"]["runs"]}
    assert runs["sure"]["loss"] == "hellinger:hellinger"
    logged = [step["loss"] for step in read_json(out / "distill" / "sure" / "history.json")["log"]]
    # Half of a cross-entropy of about ln 325, and half of a distance of at most 1.
    assert len(logged) == 4 and all(0 < loss < 0.5 * 6.0 + 0.5 for loss in logged)


def test_the_merge_is_the_mean_of_clipped_deltas(out: Path, suite: Path) -> None:
    base, merged = load_file(suite / "pivot" / "model.safetensors"), out / "merge" / "clipped"
    copies = [
        load_file(p / "model" / "model.safetensors") for p in sorted(out.glob("distill/pair-*"))
    ]
    found = load_file(merged / "model" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    deltas = [np.clip(copy[name] - base[name], -0.02, 0.02) for copy in copies]
    assert len(copies) == 3 and any(np.abs(delta).max() > 0 for delta in deltas)
    assert np.allclose(found[name], base[name] + np.mean(deltas, axis=0), atol=1e-7)
    details = read_json(merged / "merge_details.json")
    assert details["method"] == "clipped:clipped"
    assert all(tensor["largest"] == 0.02 for tensor in details["tensors"])
