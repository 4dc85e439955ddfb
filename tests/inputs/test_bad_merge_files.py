"""Merge files of every wrong kind, and models that cannot be merged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import byte_level_tokenizer, tiny_model
from fields import misspelt, models_in, out_of_range, spots, with_value, wrong_types
from refusals import assert_refused, infifusion
from safetensors.torch import load_file, save_file

from infifusion.merge.engine.file import MergeFile

PAIR = [{"model": "one", "parameters": {}}, {"model": "two", "parameters": {}}]
LINEAR: dict[str, Any] = {"merge_method": "linear", "models": PAIR, "parameters": {"weight": 1}}
STACK: dict[str, Any] = {
    "merge_method": "passthrough",
    "slices": [{"sources": [{"model": "one", "layer_range": [0, 2]}]}],
}
SCHEMAS = {
    "models": {**LINEAR, "tokenizer": {"tokens": {"x": {"source": "one"}}}},
    "slices": STACK,
    "modules": {"merge_method": "linear", "modules": {"default": {"models": PAIR}}},
}
SPOTS = {
    f"{form}: {spot.path}": (form, spot)
    for form, values in SCHEMAS.items()
    for spot in spots(MergeFile, values)
    if spot.name not in ("value", "filter")  # a condition is one of several forms of a parameter
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models one, two and base of one shape; short, wide and other of others."""
    place = tmp_path_factory.mktemp("merges")
    for seed, name in enumerate(("one", "two", "base")):
        tiny_model("llama", 300, seed).save_pretrained(place / name)
        byte_level_tokenizer(290).save_pretrained(place / name)
    tiny_model("llama", 310, 3).save_pretrained(place / "wide")
    tiny_model("gpt2", 300, 4).save_pretrained(place / "other")
    shutil.copytree(place / "one", place / "short")
    tensors = load_file(place / "one" / "model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if ".layers.1." not in n},
        place / "short" / "model.safetensors",
    )
    shutil.copytree(place / "one", place / "whole numbers")
    save_file(
        {n: (t * 100).int() for n, t in tensors.items()}, place / "whole numbers/model.safetensors"
    )
    shutil.copytree(place / "one", place / "nan")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, place / "nan" / "model.safetensors")
    return place


def refused(folder: Path, out: Path, values: object, says: str | list[str], *options: str) -> None:
    """`merge` of a file with these values is refused, and OUT_DIR is not made."""
    path = folder / "merge.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    assert_refused("merge", path, out, *options, says=says, untouched=out)
    assert not out.exists()
    assert not list(out.parent.glob(".*unfinished*")) and not list(out.parent.glob(".*.lock"))


def test_the_walk_finds_every_field_of_every_model() -> None:
    assert len(SPOTS) >= 45
    assert models_in(MergeFile) >= {
        "MergeFile", "MergeModel", "Slice", "SliceSource", "Module", "Tokenizer", "TokenEmbedding",
    }  # fmt: skip


@pytest.mark.parametrize("path", SPOTS)
def test_a_field_that_is_wrong_is_named(path: str, tmp_path: Path) -> None:
    form, spot = SPOTS[path]
    anything = spot.name == "source" and len(spot.place) == 3
    for value in (
        [] if anything else [*wrong_types(spot.field.annotation), *out_of_range(spot.field)]
    ):
        refused(tmp_path, tmp_path / "out", with_value(SCHEMAS[form], spot, value), ["merge.yaml"])
    values, wrong = misspelt(SCHEMAS[form], spot)
    says = rf"{wrong}: there is no such key. Did you mean '{spot.name}'"
    refused(tmp_path, tmp_path / "out", values, ["merge.yaml", says])


def models(*names: str, **parameters: object) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": dict(parameters)} for name in names]


def stack(*ranges: tuple[str, list[int]], **keys: object) -> dict[str, Any]:
    sources = [{"model": name, "layer_range": layers} for name, layers in ranges]
    return {**STACK, "slices": [{"sources": sources}], **keys}


TIES = {"merge_method": "ties", "base_model": "base", "models": models("one", "two", weight=1)}
WRONG: dict[str, tuple[object, str | list[str]]] = {
    "nothing": ("", "holds nothing"),
    "a list": ("- a\n", "holds a list"),
    "a recipe": (
        {"name": "r", "pivot": {"model": "p"}},
        "is a recipe .*the key 'pivot'.*, not a merge file: infifusion run ",
    ),
    "no models": (
        {"merge_method": "linear"},
        "exactly one of models, slices and modules; found none",
    ),
    "two forms": ({**LINEAR, **STACK, "merge_method": "linear"}, "found models, slices"),
    "empty models": ({**LINEAR, "models": []}, "exactly one of models, slices and modules"),
    "an unknown method": (
        {**LINEAR, "merge_method": "tise"},
        "no merge method called 'tise'. Did you mean 'ties'",
    ),
    "a foreign method": (
        {**LINEAR, "merge_method": "no.such:thing"},
        "'no.such:thing' cannot be imported",
    ),
    "no Params": ({**LINEAR, "merge_method": "math:sqrt"}, "no class Params"),
    "no base": (
        {**TIES, "base_model": None},
        "merges changes from a base. Give base_model, or --base",
    ),
    "base alone": (
        {**TIES, "models": models("base", weight=1)},
        "no model besides the base. Add one",
    ),
    "gone": ({**LINEAR, "models": models("./gone")}, "no model folder ./gone"),
    "no folder": ({**LINEAR, "models": models("~nobody/x")}, "no model folder ~nobody/x"),
    "empty name": ({**LINEAR, "models": models("")}, "model"),
    "a NUL": ({**LINEAR, "models": models("./a\0b")}, "model folder"),
    "a long name": (
        {**LINEAR, "models": models("./" + "x" * 300)},
        "File name too long: .*Give another path",
    ),
    "unknown parameter": (
        {**TIES, "parameters": {"densty": 1}},
        "ties has no parameter 'densty'. Did you mean 'density'",
    ),
    "shared parameter under a model": (
        {**TIES, "models": models("one", "two", normalize=True)},
        "'normalize' is one value for all",
    ),
    "weight for one": (
        {**TIES, "models": [*models("one", weight=1), *models("two")]},
        "'weight' is given for some models and not for others",
    ),
    "density above 1": (
        {**TIES, "parameters": {"density": 2}},
        "tensor .*: 'density' is .*between 0 and 1",
    ),
    "weight of words": ({**LINEAR, "parameters": {"weight": "much"}}, "weight.*number.*'much'"),
    "weight not finite": ({**LINEAR, "parameters": {"weight": float("inf")}}, "weight.*finite"),
    "gradient of words": ({**LINEAR, "parameters": {"weight": [1, "much"]}}, "weight"),
    "empty gradient": ({**TIES, "parameters": {"density": []}}, "density"),
    "empty conditions": ({**LINEAR, "parameters": {"weight": [{}]}}, "weight"),
    "more vocabulary": (
        {**LINEAR, "models": models("one", "wide")},
        "shape .*vocabularies differ: tokenizer_source",
    ),
    "another architecture": (
        {**LINEAR, "models": models("one", "other")},
        "the tensor .*Only models of one architecture",
    ),
    "fewer layers": (
        {**LINEAR, "models": models("one", "short")},
        "lacks the tensor model.layers.1",
    ),
    "whole numbers": (
        {**LINEAR, "models": models("one", "whole numbers")},
        "F32 in .* but I32 in .*cannot be merged",
    ),
    "NaN": ({**LINEAR, "models": models("one", "nan")}, "model.norm.weight.*NaN"),
    "no layers there": (stack(("one", [0, 3])), r"layer_range \[0, 3\] of one, which has 2 layers"),
    "backwards": (stack(("one", [2, 0])), r"layer_range \[2, 0\] of one"),
    "below zero": (stack(("one", [-1, 1])), r"layer_range \[-1, 1\]"),
    "unequal slices": (
        stack(
            ("one", [0, 2]),
            ("two", [0, 1]),
            merge_method="slerp",
            base_model="one",
            parameters={"t": 0.5},
        ),
        "layer_ranges of one length",
    ),
    "base not in a slice": (
        stack(("one", [0, 1]), merge_method="ties", base_model="base", parameters={"weight": 1}),
        "base among its sources. Add it",
    ),
    "two tokenizers": (
        {**LINEAR, "tokenizer_source": "base", "tokenizer": {}},
        "tokenizer or tokenizer_source, not both|tokenizer",
    ),
    "unknown tokenizer": (
        {**LINEAR, "tokenizer_source": "three"},
        "'three' is neither base, union nor a model",
    ),
    "no tokenizer": (
        {**LINEAR, "models": models("one", "wide"), "tokenizer_source": "union"},
        "wide has no tokenizer that can be read",
    ),
    "unknown token": (
        {
            **LINEAR,
            "tokenizer": {
                "tokens": {"x": {"source": {"kind": "model_token", "model": "one", "token": "zz"}}}
            },
        },
        "tokenizer.tokens.x.source: one has no such token",
    ),
    "token_id of words": (
        {
            **LINEAR,
            "tokenizer": {"tokens": {"x": {"source": {"model": "one", "token_id": "many"}}}},
        },
        "tokenizer.tokens.x.source",
    ),
    "source of a list": (
        {**LINEAR, "tokenizer": {"tokens": {"x": {"source": ["one"]}}}},
        "tokenizer.tokens.x.source",
    ),
    "other modules": (
        {"merge_method": "linear", "modules": {"vision": {"models": PAIR}}},
        "has none of vision",
    ),
    "empty module": (
        {"merge_method": "linear", "modules": {"default": {}}},
        "exactly one|models|slices",
    ),
    "empty slices": ({**STACK, "slices": []}, "exactly one of models, slices and modules"),
    "no sources": ({**STACK, "slices": [{"sources": []}]}, "slices.0.sources"),
    "no template": (
        {**LINEAR, "chat_template": "fancy"},
        "'fancy' is neither auto, chatml nor a Jinja template",
    ),
    "auto without any": (
        {**LINEAR, "chat_template": "auto"},
        "no model of the merge has a chat template",
    ),
    "one model for slerp": (
        {
            "merge_method": "slerp",
            "models": models("one"),
            "base_model": "one",
            "parameters": {"t": 0.5},
        },
        "slerp|besides the base",
    ),
    "the same key twice": (
        "merge_method: linear\nmerge_method: ties\n",
        "'merge_method' is written twice",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_merge_file_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    values, says = WRONG[kind]
    refused(folder, tmp_path / "out", values, says)


OPTIONS: dict[str, tuple[list[str], str]] = {
    "device": (["--device", "cuda"], "No such option: --device"),
    "memory": (["--memory", "lots"], "--memory 'lots' is no size. Give one such as 1GB"),
    "unit": (["--memory", "1XB"], "--memory '1XB' is no size"),
    "shard size": (["--shard-size", "big"], "--shard-size 'big' is no size"),
    "no shard": (["--shard-size", "0"], "--shard-size"),
    "no memory": (["--memory", "0"], "--memory|memory"),
    "threads": (["--threads", "0"], "--threads.*greater than or equal to 1"),
    "base": (["--base", "./gone"], "no model folder ./gone"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_an_option_out_of_range_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    options, says = OPTIONS[kind]
    refused(folder, tmp_path / "out", LINEAR, says, *options)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a full folder": (
        lambda out: (out.mkdir(), (out / "x").mkdir()),
        "exists already. Give another",
    ),
    "a file": (lambda out: out.touch(), "exists already. Give another folder"),
    "a link": (lambda out: out.symlink_to("gone"), "exists already. Give another folder"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_nothing_is_written_over(kind: str, folder: Path, tmp_path: Path) -> None:
    occupy, says = PLACES[kind]
    occupy(tmp_path / "out")
    (folder / "merge.yaml").write_text(yaml.safe_dump(LINEAR))
    out = tmp_path / "out"
    assert_refused("merge", folder / "merge.yaml", out, says=[re.escape(str(out)), says],
                   untouched=None)  # fmt: skip
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_merge_without_a_place_is_refused(folder: Path) -> None:
    (folder / "merge.yaml").write_text(yaml.safe_dump(LINEAR))
    assert_refused("merge", folder / "merge.yaml", says="OUT_DIR is missing: infifusion merge",
                   untouched=None)  # fmt: skip


def test_mixed_dtypes_and_odd_names_of_folders_work(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s a + "merge" ü'
    shutil.copytree(folder / "two", odd / "half & half")
    tensors = load_file(odd / "half & half" / "model.safetensors")
    halves = {n: t.half() if "mlp" in n else t for n, t in tensors.items()}
    save_file(halves, odd / "half & half" / "model.safetensors")
    (odd / "link").symlink_to(folder / "one")
    values = {**LINEAR, "models": models("./link", "half & half")}
    (odd / "merge.yaml").write_text(yaml.safe_dump(values))
    answer = infifusion("merge", odd / "merge.yaml", odd / "out put")
    assert answer.status == 0, answer.said
    merged = load_file(odd / "out put" / "model.safetensors")
    one = load_file(folder / "one" / "model.safetensors")
    for name, tensor in one.items():
        expected = (tensor.double() + halves[name].double()) / 2
        assert (merged[name].double() - expected).abs().max() < 1e-5, name
