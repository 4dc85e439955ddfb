"""Weights of data sets: how often an epoch goes over their examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import arithmetic, write_jsonl

import infifusion
from infifusion.data.mixing import weighted
from infifusion.errors import ArtifactError, DataError
from infifusion.recipe import Recipe
from infifusion.stages.check import check_recipe
from infifusion.store.records import read_json


def test_a_weight_of_two_and_a_half_takes_every_second_example_a_third_time() -> None:
    sets = np.asarray([0, 0, 0, 0, 1, 1, -1])
    times = Counter(weighted(np.arange(7), sets, [2.5, 0.5], seed=0).tolist())
    assert sorted(times[n] for n in range(4)) == [2, 2, 3, 3]
    assert sorted(times[n] for n in (4, 5)) == [0, 1]
    assert times[6] == 1, "what a source wrote has weight 1"
    again = weighted(np.arange(7), sets, [2.5, 0.5], seed=0)
    assert Counter(again.tolist()) == times


def test_weights_that_leave_nothing_are_named() -> None:
    numbers, sets = np.arange(12), np.repeat([0, 1], 6)
    with pytest.raises(DataError, match="weights of 0.05, 0.01 leave none of the 12 examples"):
        weighted(numbers, sets, [0.05, 0.01], seed=0)
    assert len(weighted(numbers, sets, [0.1, 0.01], seed=0)) == 1


def test_weights_of_one_change_nothing() -> None:
    numbers = np.asarray([4, 7, 9])
    assert weighted(numbers, np.asarray([0, 1, 0]), [1.0, 1.0], seed=3).tolist() == [4, 7, 9]


@pytest.fixture
def two_sets(suite: Path, make_recipe: Callable[..., dict], tmp_path: Path) -> Callable[..., dict]:
    """A recipe of 20 examples of one domain and 10 of another, with these weights."""
    write_jsonl(tmp_path / "many.jsonl", [arithmetic(n) for n in range(20)])
    write_jsonl(tmp_path / "few.jsonl", [arithmetic(n) for n in range(20, 30)])

    def make(**weights: float) -> dict:
        train = [
            {"path": str(tmp_path / f"{name}.jsonl"), "domain": name}
            | ({"weight": weights[name]} if name in weights else {})
            for name in ("many", "few")
        ]
        return make_recipe(
            suite,
            data={"train": train, "max_length": 128},
            sources={"a": {"model": str(suite / "a")}},
            fuse={"unified": {"function": "mean", "gate": "none"}},
            distill={"sft": {}, "unified": {"target": "unified"}},
            training={"num_train_epochs": 1, "per_device_train_batch_size": 4},
            merge={},
            evaluate={"models": ["pivot"]},
        )

    return make


def test_check_shows_the_shares_that_follow(two_sets: Callable[..., dict]) -> None:
    assert "mix       many 20 (67 %), few 10 (33 %)" in check_recipe(Recipe(**two_sets()))
    said = check_recipe(Recipe(**two_sets(few=2, many=0.5)))
    assert "mix       many 0.5 x 20 (33 %), few 2 x 10 (67 %)" in said


def test_a_run_goes_over_the_examples_as_often_as_their_weights_say(
    two_sets: Callable[..., dict], tmp_path: Path
) -> None:
    plain = infifusion.run(two_sets(), tmp_path / "plain", until="distill").folder
    mixed = infifusion.run(two_sets(few=2), tmp_path / "mixed", until="distill").folder
    before = read_json(plain / "distill/sft/history.json")
    after = read_json(mixed / "distill/sft/history.json")
    # 20 + 10 examples in steps of four, and 20 + 2 * 10.
    assert (before["steps"], after["steps"]) == (8, 10)
    assert after["positions"] > before["positions"]
    assert (mixed / "prepare/train.jsonl").read_bytes() == (
        plain / "prepare/train.jsonl"
    ).read_bytes()


def test_another_weight_makes_training_alone_anew(
    two_sets: Callable[..., dict], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = infifusion.run(two_sets(few=2), tmp_path / "r", until="distill").folder
    taught = (folder / "teach/a/manifest.json").stat().st_mtime_ns
    with pytest.raises(ArtifactError, match=r"weights: the folder has \[1.0, 2.0\], the recipe"):
        infifusion.run(two_sets(few=3), folder, until="distill")
    infifusion.run(two_sets(few=3), folder, until="distill", redo=True)
    assert (folder / "teach/a/manifest.json").stat().st_mtime_ns == taught
    assert read_json(folder / "distill/sft/history.json")["steps"] == 13  # 50 examples by four


def test_a_weight_of_held_out_data_is_refused(two_sets: Callable[..., dict], suite: Path) -> None:
    recipe = two_sets()
    recipe["data"]["held_out"] = [
        {"path": str(suite / "held_out.jsonl"), "domain": "d", "weight": 2}
    ]
    with pytest.raises(ValueError, match="only examples that are trained on have a weight"):
        Recipe(**recipe)
