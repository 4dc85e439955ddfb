"""A source that is fine-tuned on the data before it teaches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file
from test_whole_run import command

from infifusion.errors import ArtifactError, RecipeError
from infifusion.recipe import Recipe, load_recipe
from infifusion.store.hashes import sha256_of
from infifusion.store.records import read_json

TUNE = {"num_train_epochs": 3, "learning_rate": 3e-3, "lora": {"r": 4}}


@pytest.fixture(scope="module")
def make(suite: Path, make_recipe: Callable[..., dict]) -> Callable[..., Path]:
    def write(folder: Path, **tune: object) -> Path:
        values = make_recipe(suite, merge={"m": {"method": "linear", "models": ["unified"]}})
        values["distill"] = {"unified": {"target": "unified"}, "sft": {}}
        first = next(iter(values["sources"]))
        if tune:
            values["sources"][first]["tune"] = tune
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def run(make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(a finished run, the source that was tuned, one that was not)."""
    folder = tmp_path_factory.mktemp("tune")
    file = make(folder, **TUNE)
    result = command("run", file, "--run-dir", folder / "out")
    assert result.exit_code == 0, result.output
    tuned, other, *_ = load_recipe(file).sources
    return folder / "out", tuned, other


def bits(out: Path, model: str) -> float:
    path = out / "evaluate" / model.replace(":", "__") / "scores.json"
    (value,) = read_json(path)["bits_per_byte"].values()
    return value


def test_the_copy_teaches_and_is_scored_beside_what_it_was(run) -> None:
    out, tuned, other = run
    assert bits(out, f"source:{tuned}") < bits(out, f"untuned:{tuned}") - 0.05
    assert not (out / "evaluate" / f"untuned__{other}").exists()
    (taught,) = read_json(out / "teach" / tuned / "manifest.json")["counts"][
        "bits_per_byte"
    ].values()
    assert taught < bits(out, f"untuned:{tuned}")
    history = read_json(out / "tune" / tuned / "history.json")
    assert history["steps"] > 0 and history["taught_positions"] == 0
    assert (out / "tune" / tuned / "adapter").is_dir()
    page = next((out / "report").glob("*.html")).read_text(encoding="utf-8")
    assert f"untuned:{tuned}" in page and f"tune {tuned}" in page


def test_what_the_copy_does_not_touch_is_as_without_it(run, make, tmp_path: Path) -> None:
    out, tuned, other = run
    assert command("run", make(tmp_path), "--run-dir", tmp_path / "out").exit_code == 0
    plain = tmp_path / "out"

    def same(name: str) -> bool:
        return sha256_of(out / name) == sha256_of(plain / name)

    shard = next((out / "teach" / other).glob("*.safetensors")).name
    assert same(f"teach/{other}/{shard}") and not same(f"teach/{tuned}/{shard}")
    assert same("distill/sft/model/model.safetensors")
    assert not same("distill/unified/model/model.safetensors")
    assert same(f"prepare/rendered/{tuned}-train.safetensors")
    untuned, given = (bits(out, f"untuned:{tuned}"), bits(plain, f"source:{tuned}"))
    assert untuned == pytest.approx(given, abs=1e-12)


def test_a_finished_run_makes_nothing_again_and_other_settings_are_refused(run, make) -> None:
    out, *_ = run
    files = {path: path.stat().st_mtime_ns for path in (out / "tune").rglob("*") if path.is_file()}
    assert command("run", make(out.parent, **TUNE), "--run-dir", out).exit_code == 0
    assert files == {path: path.stat().st_mtime_ns for path in files}
    other = {**TUNE, "learning_rate": 1e-3}
    result = command("run", make(out.parent, **other), "--run-dir", out)
    assert isinstance(result.exception, ArtifactError) and "learning_rate" in str(result.exception)
    make(out.parent, **TUNE)


def test_redo_makes_the_copy_and_what_follows_from_it(run, make, tmp_path: Path) -> None:
    file, out = make(tmp_path, **TUNE), tmp_path / "out"
    assert command("run", file, "--run-dir", out, "--until", "teach").exit_code == 0
    _, tuned, other = run
    weights = out / "tune" / tuned / "model" / "model.safetensors"
    before = load_file(weights)
    marks = {n: (out / "teach" / n / "manifest.json").stat().st_mtime_ns for n in (tuned, other)}
    file = make(tmp_path, **{**TUNE, "num_train_epochs": 1})
    arguments = ("run", file, "--run-dir", out, "--until", "teach", "--redo")
    assert command(*arguments).exit_code == 0
    after = load_file(weights)
    assert any((before[name] != after[name]).any() for name in before)
    changed = {n: (out / "teach" / n / "manifest.json").stat().st_mtime_ns for n in marks}
    assert changed[tuned] != marks[tuned] and changed[other] == marks[other]


def test_a_damaged_copy_does_not_teach(make, run, tmp_path: Path) -> None:
    file, out, tuned = make(tmp_path, **TUNE), tmp_path / "out", run[1]
    assert command("run", file, "--run-dir", out, "--until", "tune").exit_code == 0
    assert not (out / "teach").exists()
    weights = out / "tune" / tuned / "model" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-3] ^= 1
    weights.write_bytes(damaged)
    result = command("run", file, "--run-dir", out, "--until", "teach")
    assert isinstance(result.exception, ArtifactError) and str(weights) in str(result.exception)


def test_check_and_plan_count_it(run, make) -> None:
    out, tuned, _ = run
    file = make(out.parent, **TUNE)
    said = command("check", file).output
    assert f"tune      {tuned}, LoRA:" in said and f"a step of sources.{tuned}.tune" in said
    planned = json.loads(command("plan", file, "--json").stdout)
    rows = {(row["stage"], row["name"]): row for row in planned["rows"]}
    assert rows["tune", tuned]["seconds"] > 0 and rows["tune", tuned]["bytes"] > 0
    assert ("evaluate", f"untuned:{tuned}") in rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pivot": {"tune": {}}}, "pivot.tune: only sources are tuned"),
        ({"sources": {"a": {"tune": {"domains": ["maths"]}}}}, "there is no domain 'maths'"),
        ({"sources": {"a": {"tune": {"domains": []}}}}, "tune.domains: name a domain"),
        ({"sources": {"a": {"tune": {}, "quantization": "4bit"}}}, "add lora, or remove"),
        (
            {"sources": {"a": {"tune": {"training": {"learning_rate": 1e-4}}}}},
            "write it as sources.a.tune.learning_rate",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(change: dict, said: str) -> None:
    values = {
        "name": "r",
        "pivot": {"model": "org/p"},
        "sources": {"a": {"model": "org/a"}},
        "data": {"train": [{"path": "org/data", "domain": "d"}]},
    }
    for key, value in change.items():
        for name, more in value.items() if key == "sources" else [(None, value)]:
            (values[key][name] if name else values[key]).update(more)
    with pytest.raises(RecipeError, match=said.replace(".", r"\.")):
        Recipe.from_mapping(values, where="recipe.yaml")
