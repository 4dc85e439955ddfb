"""What a sweep file stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from infifusion.errors import RecipeError
from infifusion.strict import read_yaml
from infifusion.sweep.file import SweepRun, load_sweep

RECIPE = {
    "pivot": {"model": "models/{seed}/pivot"},
    "sources": {"a": {"model": "models/{kind}/a"}, "b": {"model": "models/{kind}/b"}},
    "data": {"train": [{"path": "train.jsonl", "domain": "a"}]},
    "fuse": {
        "all": {"function": "uncertainty", "params": {"kappa": [0.1, 1.0]}},
        "one": {"function": "mean", "sources": [["a"], ["b"]]},
        "pair": {"function": "mean", "each": True, "gate": ["none", "bits_per_byte"]},
    },
    "distill": {
        "sft": {},
        "all": {"target": "all", "gold_weight": [0.0, 0.5]},
        "one": {"target": "one"},
        "pair": {"target": "pair", "each": True},
    },
    "merge": {
        "soup": {"method": "linear", "models": ["pair"]},
        "rsaf": {"method": "rsaf", "models": ["pair"], "params": {"tau0": [0.1, 0.5]}},
    },
}


def load(folder: Path, *assignments: str, **keys: object) -> list[SweepRun]:
    """The runs of a sweep over RECIPE."""
    path = folder / "sweep.yaml"
    values = {"name": "s", "recipe": RECIPE, "settings": {"kind": ["narrow", "general"]}, **keys}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return load_sweep(path, list(assignments))[1]


def test_every_setting_is_run_with_every_seed_and_placeholders_are_filled_in(
    tmp_path: Path,
) -> None:
    runs = load(tmp_path, seeds=[3, 4])
    folders = [run.folder for run in runs]
    assert folders == [
        "kind=narrow/seed3", "kind=general/seed3", "kind=narrow/seed4", "kind=general/seed4",
    ]  # fmt: skip
    last = runs[-1].recipe
    assert (last.seed, last.pivot.model) == (4, "models/4/pivot")
    assert last.sources["b"].model == "models/general/b"
    assert runs[0].words == "kind=narrow"


def test_lists_in_fuse_distill_and_merge_make_arms_of_all_that_follows(tmp_path: Path) -> None:
    run = load(tmp_path)[0]
    assert list(run.recipe.fuse) == [
        "all,kappa=0.1", "all,kappa=1.0", "one,sources=[a]", "one,sources=[b]",
        "pair,gate=none", "pair,gate=bits_per_byte",
    ]  # fmt: skip
    assert run.recipe.fuse["one,sources=[b]"].sources == ["b"]
    assert run.arms == [
        "pivot", "sft",
        "all,kappa=0.1,gold_weight=0.0", "all,kappa=1.0,gold_weight=0.0",
        "all,kappa=0.1,gold_weight=0.5", "all,kappa=1.0,gold_weight=0.5",
        "one,sources=[a]", "one,sources=[b]",
        "soup,gate=none", "soup,gate=bits_per_byte",
        "rsaf,gate=none,tau0=0.1", "rsaf,gate=bits_per_byte,tau0=0.1",
        "rsaf,gate=none,tau0=0.5", "rsaf,gate=bits_per_byte,tau0=0.5",
    ]  # fmt: skip
    training = run.recipe.distill["all,kappa=1.0,gold_weight=0.5"]
    assert (training.target, training.gold_weight) == ("all,kappa=1.0", 0.5)
    merge = run.recipe.merge["rsaf,gate=none,tau0=0.5"]
    assert (merge.models, merge.params) == (["pair,gate=none"], {"tau0": 0.5})
    assert run.against == ["sft"]


def test_variants_of_different_values_of_one_place_are_not_merged(tmp_path: Path) -> None:
    merge = {"two": {"method": "linear", "models": ["all", "other"]}}
    distill = {"all": {"gold_weight": 0.1}, "other": {"target": "all", "gold_weight": 0.9}}
    run = load(tmp_path, changes={"distill": distill | {"pair": None, "one": None},
                                    "merge": {"soup": None, "rsaf": None, **merge}})[0]  # fmt: skip
    found = {name: one.models for name, one in run.recipe.merge.items()}
    assert [models for name, models in found.items() if name.startswith("two")] == [
        ["all,kappa=0.1", "other,kappa=0.1"],
        ["all,kappa=1.0", "other,kappa=1.0"],
    ]


def test_lists_elsewhere_and_paths_make_settings(tmp_path: Path) -> None:
    runs = load(
        tmp_path,
        settings={"kind": ["narrow"], "teach.top_k": [1, 5]},
        changes={"training": {"max_steps": [10, 20]}, "fuse": {}},
    )
    assert [(w.recipe.teach.top_k, w.recipe.training["max_steps"]) for w in runs] == [
        (1, 10), (1, 20), (5, 10), (5, 20),
    ]  # fmt: skip
    assert runs[1].words == "top_k=1, max_steps=20", "what has one value needs no word"
    assert runs[0].recipe.evaluate.models == runs[0].arms


def test_a_chosen_arm_stands_for_its_variants_and_assignments_override(tmp_path: Path) -> None:
    runs = load(tmp_path, "seeds=[9]", "against=[pivot]", arms=["pivot", "source:a", "all"])
    assert [run.seed for run in runs] == [9, 9]
    assert runs[0].arms[:2] == ["pivot", "source:a"] and len(runs[0].arms) == 6
    assert runs[0].against == ["pivot"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"arms": ["al"]}, "there is no model 'al'. Did you mean 'all'?"),
        ({"arms": ["all"], "against": ["sft"]}, "against: 'sft' is not among the arms"),
        ({"settings": {"knid": [1]}}, "{knid} stands nowhere in the recipe"),
        ({"settings": {"kind": []}}, "found an empty list"),
        ({"settings": {"kind": ["x"], "data.train.x.y.z": [1]}}, "there is no"),
        ({"settings": {"kind": ["x"], "data.train.x": [1]}}, "there is no 'x' to go into"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": []}, "seeds"),
        ({"recipe": "nowhere.yaml"}, "There is no file"),
        ({"seed": [1]}, "Did you mean 'seeds'?"),
        ({"changes": {"distill": {"all": {"targt": "x"}}}}, "targt: there is no such key"),
    ],
)
def test_a_wrong_sweep_is_refused_by_name(
    tmp_path: Path, keys: dict[str, object], words: str
) -> None:
    with pytest.raises(RecipeError, match=words.replace("{", "\\{").replace("?", "\\?")):
        load(tmp_path, **keys)


def test_a_sweep_takes_one_answer_per_item(tmp_path: Path) -> None:
    drawn = {"evaluate": {"samples": 4, "temperature": 1.0}}
    with pytest.raises(RecipeError, match=r"evaluate\.samples is 4; a sweep compares one answer"):
        load(tmp_path, recipe={**RECIPE, **drawn})


def test_yaml_anchors_and_merge_keys_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\nc: [*x, *x]\n", encoding="utf-8")
    assert read_yaml(path) == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 1, "l": 3},
        "c": [{"k": 1, "l": 2}] * 2,
    }
    path.write_text("a: {k: 1, k: 2}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="'k' is written twice"):
        read_yaml(path)
