"""The debug recipe names every entry of every table, and each of them does something."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.fuse import FUSION_FUNCTIONS
from infifusion.losses import LOSSES
from infifusion.merge.methods import METHODS
from infifusion.recipe import load_recipe
from infifusion.store.records import read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the debug recipe over the tests' own models."""
    folder = tmp_path_factory.mktemp("every")
    shutil.copytree(suite, folder / "models")
    (folder / "data").mkdir()
    for name in ("train.jsonl", "held_out.jsonl"):
        shutil.copy(suite / name, folder / "data" / name)
    recipe = shutil.copy(ROOT / "recipes" / "debug" / "every_method.yaml", folder)
    result = CliRunner().invoke(cli.app, ["run", str(recipe), "--run-dir", str(folder / "out")])
    assert result.exception is None, result.exception
    return folder / "out"


def test_the_debug_recipe_names_every_method() -> None:
    resolved = load_recipe(ROOT / "recipes" / "debug" / "every_method.yaml").resolve()
    assert {t.function for t in resolved.targets} == set(FUSION_FUNCTIONS)
    assert {r.loss for r in resolved.runs} == set(LOSSES)
    assert {m.method for m in resolved.merges} == set(METHODS)


def test_every_method_has_a_row_in_the_docs() -> None:
    docs = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    merge = (ROOT / "docs" / "merge.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in docs for name in [*FUSION_FUNCTIONS, *LOSSES])
    assert all(f"`{name}`" in merge for name in METHODS)


def test_every_fusion_function_gives_distributions_of_its_own(out: Path) -> None:
    found = {}
    for name in FUSION_FUNCTIONS:
        prob = np.load(out / "fuse" / name / "prob_TK.npy")
        weight = np.load(out / "fuse" / name / "weight_ST.npy")
        taught = weight.sum(axis=0) > 0
        assert taught.any() and (prob[taught].sum(axis=1) > 0).all()
        assert (prob.sum(axis=1) < 1 + 1e-5).all() and (prob[~taught] == 0).all()
        found[name] = prob
    same = [(a, b) for a in found for b in found if a < b and np.array_equal(found[a], found[b])]
    assert same == []


def test_every_training_run_and_merge_gives_weights_of_its_own(out: Path) -> None:
    folders = sorted([*out.glob("distill/*/model"), *out.glob("merge/*/model")])
    assert len(folders) == 6 + 3 + 3 + len(METHODS) + 1
    norms = {}
    for folder in folders:
        tensors = load_file(folder / "model.safetensors")
        assert all(torch.isfinite(t).all() for t in tensors.values())
        norms[folder.parent.name] = tensors["model.layers.0.mlp.up_proj.weight"]
    # A copy whose source is shut on its few examples is plain fine-tuning, and so not its own.
    names = sorted(name for name in norms if name.startswith(("with_", "by_")))
    same = [(a, b) for a in names for b in names if a < b and torch.equal(norms[a], norms[b])]
    assert same == []


def test_a_chain_goes_on_from_the_copy_before(out: Path) -> None:
    def weights(name: str) -> torch.Tensor:
        path = out / "distill" / name / "model" / "model.safetensors"
        return load_file(path)["model.layers.0.mlp.up_proj.weight"]

    # The first link starts at the pivot as the star does; the second one does not.
    assert torch.equal(weights("chain-a"), weights("pair-a"))
    far, near = (weights("chain-b") - weights(n) for n in ("pair-a", "chain-a"))
    assert torch.equal(far, near) and not torch.equal(weights("chain-b"), weights("pair-b"))


def test_the_choice_of_tau0_is_recorded(out: Path) -> None:
    details = read_json(out / "merge" / "by_rsaf" / "merge_details.json")
    tried = {one["tau0"]: one["bits_per_byte"] for one in details["tau0_validation"]}
    assert tried[details["params"]["tau0"]] == min(tried.values())
