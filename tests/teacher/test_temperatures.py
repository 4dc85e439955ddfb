"""Temperatures of sources in a run: given, fitted, kept, and taken up again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import arithmetic, learn
from test_whole_run import command
from transformers import AutoModelForCausalLM, AutoTokenizer

from infifusion.errors import ArtifactError, DataError
from infifusion.store.records import read_json


@pytest.fixture(scope="module")
def overconfident(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite with a source that knows some of the data by heart and is too sure of the rest."""
    folder = tmp_path_factory.mktemp("suite") / "suite"
    shutil.copytree(suite, folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "a")
    problems = [arithmetic(n) for n in range(0, 40, 3)]
    pairs = [(problem["prompt"], problem["response"]) for problem in problems]
    learn(model, AutoTokenizer.from_pretrained(folder / "a"), pairs, steps=40)
    model.save_pretrained(folder / "a")
    return folder


@pytest.fixture
def recipe_file(overconfident: Path, make_recipe: Callable[..., dict], tmp_path: Path):
    def write(temperature: object, **changes: object) -> Path:
        values = make_recipe(overconfident)
        values |= {"fuse": {"u": {"gate": "none"}}, "distill": {"u": {"target": "u"}}, "merge": {}}
        values["sources"] = {"a": {"model": str(overconfident / "a"), "temperature": temperature}}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
        return path

    return write


def taught(out: Path) -> tuple[float, dict[str, bytes]]:
    """The temperature that a pass signed for, and its shards."""
    folder = out / "teach" / "a"
    shards = {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
    assert len(shards) == 3
    return read_json(folder / "manifest.json")["counts"]["temperature"], shards


def teach(recipe: Path, out: Path) -> tuple[float, dict[str, bytes]]:
    assert command("run", recipe, "--run-dir", out, "--until", "teach").exit_code == 0
    return taught(out)


def test_a_fitted_temperature_teaches_as_the_same_number_given(recipe_file, tmp_path: Path) -> None:
    fitted, shards = teach(recipe_file("fit"), tmp_path / "fit")
    kept = read_json(tmp_path / "fit/teach/a/temperature.json")
    assert kept["temperature"] == fitted and 1.05 < fitted < 8
    assert kept["nats"] < kept["nats_at_1"] and not kept["at_the_end"]
    assert "temperature.json" in read_json(tmp_path / "fit/teach/a/manifest.json")["files"]
    assert teach(recipe_file(fitted), tmp_path / "given") == (fitted, shards)
    at_1, plain = teach(recipe_file(1), tmp_path / "plain")
    assert at_1 == 1 and plain.keys() == shards.keys() and plain != shards


def test_a_fitted_temperature_that_was_damaged_is_fitted_again(recipe_file, tmp_path: Path) -> None:
    recipe, out = recipe_file("fit"), tmp_path / "out"
    whole = teach(recipe, out)
    kept = out / "teach/a/temperature.json"
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b"nats", b"nuts"))
    shards = {path: path.stat().st_mtime_ns for path in kept.parent.glob("*.safetensors")}
    redone = command("run", recipe, "--run-dir", out, "--until", "teach", "--redo")
    assert redone.exit_code == 0, redone.output
    assert taught(out) == whole and kept.read_bytes() == content
    assert shards == {path: path.stat().st_mtime_ns for path in shards}


def test_a_pass_stopped_after_the_fit_goes_on_at_the_same_temperature(
    recipe_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infifusion.stages import teach as stage
    from infifusion.teacher import calibrate

    recipe = recipe_file("fit")
    whole = teach(recipe, tmp_path / "whole")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_shard", stop)
        out = tmp_path / "stopped"
        assert command("run", recipe, "--run-dir", out, "--until", "teach").exit_code != 0
    assert (out / "teach/a/temperature.json").exists()
    assert not list((out / "teach/a").glob("*.safetensors"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the temperature was fitted again")

    monkeypatch.setattr(calibrate, "fit_temperature", refuse)
    assert teach(recipe, out) == whole


def test_another_temperature_in_the_same_folder_is_refused_by_name(
    recipe_file, tmp_path: Path
) -> None:
    teach(recipe_file(2), tmp_path / "out")
    changed = command("run", recipe_file("fit"), "--run-dir", tmp_path / "out")
    assert isinstance(changed.exception, ArtifactError)
    assert "temperature: the folder has 2.0, the recipe wants 'fit'" in str(changed.exception)


def test_a_fit_without_validation_examples_is_refused(recipe_file, tmp_path: Path) -> None:
    recipe = recipe_file("fit")
    few = "data.validation_share=0.01"  # of 40 examples, rounded: none
    refused = command("run", recipe, "--run-dir", tmp_path / "out", "--set", few)
    assert isinstance(refused.exception, DataError)
    assert "sources.a.temperature: fit needs validation examples" in str(refused.exception)


def test_an_online_source_teaches_at_the_temperature_of_a_cached_one(
    recipe_file, tmp_path: Path
) -> None:
    assert command("run", recipe_file("fit"), "--run-dir", tmp_path / "cached").exit_code == 0
    fitted, _ = taught(tmp_path / "cached")
    online = recipe_file("fit", fuse={"u": {"teacher": "online", "gate": "none"}})
    assert command("run", online, "--run-dir", tmp_path / "online").exit_code == 0
    counts = read_json(tmp_path / "online/distill/u/manifest.json")["counts"]
    assert counts["temperatures"] == {"a": fitted}
    cached, beside = (
        [
            line["divergence"]
            for line in read_json(tmp_path / name / "distill/u/history.json")["log"]
        ]
        for name in ("cached", "online")
    )
    assert beside == pytest.approx(cached, rel=1e-2)
    assert (tmp_path / "cached/report/index.html").exists()
    assert (tmp_path / "online/report/index.html").exists()
