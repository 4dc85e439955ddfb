from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infifusion.demo.domains import DOMAINS, split_of
from infifusion.demo.models import PIVOT, SOURCES
from infifusion.errors import ArtifactError
from infifusion.recipe import DataSource, load_recipe
from infifusion.setup import suite
from infifusion.store.records import read_json


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that train in a moment, in this process."""
    few = dict.fromkeys(DOMAINS, 6)
    monkeypatch.setattr(suite, "PIVOT", replace(PIVOT, counts=few, drills={"sym": 4}, steps=2))
    monkeypatch.setattr(
        suite,
        "SOURCES",
        {name: replace(one, counts=few, drills={}, steps=2) for name, one in SOURCES.items()},
    )


def test_a_model_is_whole_signed_and_not_made_twice(quick: None, tmp_path: Path):
    suite.make_model(tmp_path, "sym", 0)
    manifest = read_json(tmp_path / "sym" / "manifest.json")
    assert manifest["counts"]["steps"] == 2
    assert manifest["counts"]["parameters"] > 300_000
    assert "model/model.safetensors" in manifest["files"]
    weights = tmp_path / "sym" / "model" / "model.safetensors"
    before = (weights.stat().st_mtime_ns, weights.read_bytes())
    suite.make_model(tmp_path, "sym", 0)
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == before
    with pytest.raises(ArtifactError, match="seed: the folder has 0, the recipe wants 1"):
        suite.make_model(tmp_path, "sym", 1)


def test_the_same_seed_gives_the_same_weights(quick: None, tmp_path: Path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        suite.make_model(tmp_path / folder, "code", seed)
    a, b, c = ((tmp_path / f / "code" / "model" / "model.safetensors").read_bytes() for f in "abc")
    assert a == b
    assert a != c


def records(sources: list[DataSource]) -> list[dict]:
    lines = [line for s in sources for line in Path(s.path).read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_the_suite_is_what_its_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
):
    class Here:
        """The pool's jobs, run in this process, where the settings are small."""

        def __init__(self, **_: object) -> None: ...

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, function, *arguments):
            function(*arguments)
            from concurrent.futures import Future

            done: Future = Future()
            done.set_result(None)
            return done

    monkeypatch.setattr(suite, "ProcessPoolExecutor", Here)
    path = suite.make_suite(tmp_path, seed=3)
    recipe = load_recipe(path)
    assert recipe.seed == 3
    assert set(recipe.sources) == set(DOMAINS)
    for model in [recipe.pivot, *recipe.sources.values()]:
        assert (Path(model.model) / "config.json").is_file()
    train, test = records(recipe.data.train), records(recipe.data.held_out)
    assert len(train) == 3 * suite.DISTILL_PER_DOMAIN
    assert len(test) == 3 * suite.TEST_PER_DOMAIN >= 900
    assert {split_of(record["key"]) for record in train} == {"train"}
    assert {split_of(record["key"]) for record in test} == {"test"}
    assert suite.make_suite(tmp_path, seed=3) == path
