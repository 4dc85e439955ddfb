"""A recipe's merge of what the run trained with its sources and with models from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import ArtifactError, RecipeError
from infifusion.stages.merge import check_merge
from infifusion.store.records import read_json

WEIGHTS = "model.safetensors"


def run(recipe: Path, out: Path, *options: str) -> str:
    command = ["run", str(recipe), "--run-dir", str(out), *options]
    return CliRunner().invoke(cli.app, command, catch_exceptions=False).output


@pytest.fixture
def folder(suite: Path, make_recipe, tmp_path: Path) -> Path:
    """A pivot, a source that is the pivot changed, and another one in a folder beside the recipe;
    the recipe fine-tunes the pivot and merges it with both."""
    for name, seed in (("other", 1), ("elsewhere", 2)):
        shutil.copytree(suite / "pivot", tmp_path / name)
        torch.manual_seed(seed)
        tensors = load_file(suite / "pivot" / WEIGHTS)
        changed = {k: t + 0.02 * torch.randn_like(t) for k, t in tensors.items()}
        save_file(changed, tmp_path / name / WEIGHTS, metadata={"format": "pt"})
    values = make_recipe(
        suite,
        sources={"other": {"model": str(tmp_path / "other")}},
        fuse={},
        distill={"sft": {}},
        merge={
            "two": {"method": "linear", "models": ["sft", "source:other"]},
            "three": {"method": "linear", "models": ["two", "./elsewhere", "pivot"]},
        },
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return tmp_path


def test_runs_sources_merges_and_folders_are_merged_together(folder: Path, suite: Path) -> None:
    out = folder / "out"
    run(folder / "recipe.yaml", out)
    sft, other, elsewhere, pivot = (
        load_file(place / WEIGHTS)
        for place in (out / "distill/sft/model", folder / "other", folder / "elsewhere",
                      suite / "pivot")
    )  # fmt: skip
    two, three = (load_file(out / "merge" / name / "model" / WEIGHTS) for name in ("two", "three"))
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, (sft[name] + other[name]) / 2)
        mean = (tensor + elsewhere[name] + pivot[name]) / 3
        torch.testing.assert_close(three[name], mean)
    details = read_json(out / "merge/three/merge_details.json")
    assert details["models"] == ["two", str(folder / "elsewhere"), "pivot"]
    assert {"two", "three", "source:other"} <= read_json(out / "summary.json")["models"].keys()


def test_another_model_in_the_folder_is_another_merge(folder: Path) -> None:
    out = folder / "out"
    run(folder / "recipe.yaml", out, "--until", "merge")
    tensors = load_file(folder / "elsewhere" / WEIGHTS)
    changed = {name: tensor + 0.1 for name, tensor in tensors.items()}
    save_file(changed, folder / "elsewhere" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="models"):
        run(folder / "recipe.yaml", out, "--until", "merge")
    before = (out / "merge/two/manifest.json").read_bytes()
    run(folder / "recipe.yaml", out, "--until", "merge", "--redo")
    assert (out / "merge/two/manifest.json").read_bytes() == before


def test_a_recipe_may_merge_without_training(folder: Path) -> None:
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values |= {"distill": {}, "merge": {"m": {"method": "ties", "models": ["source:other"]}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    run(folder / "recipe.yaml", folder / "out")
    assert (folder / "out/merge/m/model" / WEIGHTS).is_file()
    assert "m" in read_json(folder / "out" / "summary.json")["models"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("gone", "no model folder"),
        ("narrow", "has shape|other things with weights"),
        ("tokens", "is .* in .* and .*rows stand for other tokens"),
    ],
)
def test_models_that_do_not_belong_to_the_pivot_are_refused_before_training(
    folder: Path, change: str, match: str
) -> None:
    place = folder / "elsewhere"
    if change == "gone":
        shutil.rmtree(place)
    elif change == "narrow":
        config = json.loads((place / "config.json").read_text())
        tensors = load_file(place / WEIGHTS)
        name = next(key for key in tensors if key.endswith("up_proj.weight"))
        tensors[name] = tensors[name][:-8].clone()
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        (place / "config.json").write_text(json.dumps(config))
    else:
        tokenizer = json.loads((place / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        one, other = list(vocabulary)[40:42]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        (place / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match=match):
        run(folder / "recipe.yaml", folder / "out")
    assert not list((folder / "out").rglob("*.safetensors"))


def test_what_is_checked_is_the_merge_itself(folder: Path) -> None:
    from infifusion.recipe import load_recipe

    recipe = load_recipe(folder / "recipe.yaml")
    for merge in recipe.resolve().merges:
        check_merge(recipe, merge)
