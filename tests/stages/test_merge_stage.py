from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from infifusion.commands.merge_models import merge_command
from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.engine.file import read_merge_file
from infifusion.stages.merge import TAU0_CANDIDATES, choose_tau0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, one/ and two/: the last two are the base plus noise."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_model("llama", 300, seed=0)
    for n, name in enumerate(("base", "one", "two")):
        model = tiny_model("llama", 300, seed=0)
        torch.manual_seed(n)
        for mine, start in zip(model.parameters(), base.parameters(), strict=True):
            mine.data = start.data + n * 0.01 * torch.randn_like(start)
        model.save_pretrained(folder / name)
        byte_level_tokenizer(300).save_pretrained(folder / name)
    return folder


def write(folder: Path, **values: object) -> Path:
    path = folder / "merge.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def both(**parameters: object) -> list[dict]:
    return [{"model": name, "parameters": dict(parameters)} for name in ("one", "two")]


def merge_file(path: Path, out: Path | None, *, base_override: str | None, **options) -> dict:
    values: dict = {"plan_only": False, "dry_run": False}
    values |= {"memory": None, "threads": None, "shard_size": "5GB", "allow_nan": False}
    values |= {"allow_pickle": False, **options}
    return merge_command(path, out, base=base_override, **values)[1]


def test_a_merge_file_gives_a_model_that_loads_with_its_tokenizer(models, tmp_path) -> None:
    path = write(models, merge_method="rsaf", base_model="base", models=both())
    details = merge_file(path, tmp_path / "out", base_override=None)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists()
    written = json.loads((tmp_path / "out" / "merge_details.json").read_text())
    assert details == written | {
        "out": str(tmp_path / "out"),
        "seconds": details["seconds"],
        "threads": details["threads"],
    }
    first = details["tensors"][0]
    assert {"name", "numel", "rate", "skewness", "tau", "ratio", "coefficients"} <= first.keys()
    start = load_file(models / "base" / "model.safetensors")["model.norm.weight"]
    assert not torch.equal(merged.model.norm.weight, start)


def test_weights_per_model_are_used_in_their_order(models: Path, tmp_path: Path) -> None:
    listed = [
        {"model": "one", "parameters": {"weight": 1.0}},
        {"model": "two", "parameters": {"weight": 0.0}},
    ]
    path = write(models, merge_method="linear", models=listed)
    merge_file(path, tmp_path / "out", base_override=None)
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = load_file(models / "one" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_the_output_dtype_is_written_and_named_in_the_config(models: Path, tmp_path: Path) -> None:
    path = write(models, merge_method="sce", base_model="base", models=both(), out_dtype="bfloat16")
    merge_file(path, tmp_path / "out", base_override=None)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype is torch.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_base_on_the_command_line_replaces_the_files(models: Path, tmp_path: Path) -> None:
    path = write(models, merge_method="ties", base_model="gone", models=both())
    details = merge_file(path, tmp_path / "out", base_override=str(models / "base"))
    assert details["base"] == str(models / "base")
    assert details["params"]["lambda"] == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"merge_methd": "ties"}, "Did you mean 'merge_method'"),
        ({"merge_method": "tise", "base_model": "base"}, "Did you mean 'ties'"),
        ({"merge_method": "ties", "slices": [{"sources": []}]}, "slices.0.sources"),
        (
            {
                "merge_method": "ties",
                "slices": [{"sources": [{"model": "one", "layer_range": [0, 1]}]}],
            },
            "exactly one of models, slices and modules; found models, slices",
        ),
        (
            {
                "models": None,
                "merge_method": "passthrough",
                "slices": [{"sources": [{"model": "one", "layer_range": [0, 9]}]}],
            },
            r"layer_range \[0, 9\] of one, which has",
        ),
        ({"merge_method": "ties"}, "ties merges changes from a base"),
        (
            {"merge_method": "ties", "base_model": "base", "parameters": {"densty": 0.1}},
            "Did you mean 'density'",
        ),
        (
            {
                "merge_method": "ties",
                "base_model": "base",
                "models": [{"model": "one", "parameters": {"weight": 1}}, {"model": "two"}],
            },
            "'weight' is given for some models",
        ),
        (
            {"merge_method": "linear", "models": both(scale=1)},
            "linear has no parameter 'scale'.* It has: normalize, weight",
        ),
        (
            {"merge_method": "linear", "models": both(normalize=True)},
            "'normalize' is one value for all models",
        ),
        ({"merge_method": "slerp", "models": both()}, "t: this key is required"),
        (
            {
                "merge_method": "linear",
                "models": [
                    {"model": "one", "parameters": {"weight": 1}},
                    {"model": "two", "parameters": {"weight": -1}},
                ],
            },
            "the weights sum to zero",
        ),
        ({"merge_method": "linear", "chat_template": "nonsense"}, "neither auto, chatml nor"),
        ({"merge_method": "linear", "tokenizer_source": "gone"}, "neither base, union nor a model"),
    ],
)
def test_a_wrong_merge_file_is_refused_and_leaves_nothing(
    models: Path, tmp_path: Path, values: dict, message: str
) -> None:
    path = write(models, **{"models": both(), **values})
    with pytest.raises(RecipeError, match=message):
        merge_file(path, tmp_path / "out", base_override=None)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_folder_is_named(models: Path, tmp_path: Path) -> None:
    path = write(models, merge_method="linear", models=[{"model": "./gone"}])
    with pytest.raises(CheckpointError, match=r"no model folder \./gone"):
        merge_file(path, tmp_path / "out", base_override=None)


def test_mergekits_int8_mask_is_accepted_with_a_note(models: Path, tmp_path: Path) -> None:
    path = write(
        models,
        merge_method="ties",
        base_model="base",
        models=[{"model": "base"}, *both(weight=0.5, density=0.5)],
        parameters={"int8_mask": True, "normalize": True},
        dtype="float32",
    )
    assert read_merge_file(path, base_override=None).dtype == "float32"
    details = merge_file(path, tmp_path / "out", base_override=None)
    # The base itself is no delta to merge.
    assert len(details["models"]) == 2
    plan = merge_file(path, None, base_override=None, plan_only=True)
    assert plan["notes"] == ["int8_mask is not needed: masks take one bit here."]


def test_a_plan_and_a_dry_run_write_nothing_and_say_what_would_be_done(models, tmp_path) -> None:
    path = write(models, merge_method="rsaf", base_model="base", models=both(), dtype="bfloat16")
    before = sorted(p.name for p in models.iterdir())
    plan = merge_file(path, tmp_path / "out", base_override=None, plan_only=True)
    size = (models / "base" / "model.safetensors").stat().st_size
    assert plan["bytes_read"] == pytest.approx(3 * size, rel=0.05)
    assert plan["bytes_written"] == plan["bytes_read"] // 3 // 2  # float32 to bfloat16
    assert plan["memory"] > 100e6 and plan["seconds"] > 0
    text = merge_command(
        path, None, base=None, plan_only=False, dry_run=True, memory="1GB",
        threads=1, shard_size="1GB", allow_nan=False, allow_pickle=False,
    )[0]  # fmt: skip
    assert "are present in all models" in text
    assert list(tmp_path.iterdir()) == []
    assert sorted(p.name for p in models.iterdir()) == before


def test_tau0_is_scored_at_every_candidate_on_the_disk_of_the_run(tmp_path: Path) -> None:
    """A model of billions of parameters does not fit where temporary files lie."""
    places = []

    def merge_at(tau0: float, place: Path) -> None:
        places.append(place)
        place.write_text(str(tau0))

    def score(place: Path) -> float:
        return abs(float(place.read_text()) - 0.7)

    tried = choose_tau0(merge_at, score, scratch=tmp_path / "tau0")
    assert [one["tau0"] for one in tried] == list(TAU0_CANDIDATES)
    assert min(tried, key=lambda one: one["bits_per_byte"])["tau0"] == 0.7
    assert {place.parent.parent for place in places} == {tmp_path}
    assert list(tmp_path.iterdir()) == []
