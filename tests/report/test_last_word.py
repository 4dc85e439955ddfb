"""What a run says at its end: was fusion worth it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import infifusion
from infifusion.recipe import Recipe
from infifusion.report.last_word import HELD_OUT, compared, last_words
from infifusion.store.folders import RunFolder


def score(folder: Path, name: str, bits: dict[str, float], noise: int, n: int = 60) -> None:
    """A model's held-out nats: every response of a domain has some 20 bytes of so many bits."""
    rng = np.random.default_rng(3)
    domains = [domain for domain in bits for _ in range(n)]
    size = rng.integers(10, 30, len(domains))
    mean = np.array([bits[domain] for domain in domains]) * size * math.log(2)
    nats = mean + np.random.default_rng(noise).normal(0, 0.5, len(domains))
    place = RunFolder(folder).evaluate(name)
    place.mkdir(parents=True)
    values = {"nats": nats.tolist(), "bytes": size.tolist(), "domains": domains}
    (place / HELD_OUT).write_text(json.dumps(values))


@pytest.fixture
def resolved(suite: Path, make_recipe: Callable[..., dict]):
    runs = {"sft": {}, "unified": {"target": "unified"}}
    fuse = {"unified": {"function": "mean", "gate": "none"}}
    return Recipe(**make_recipe(suite, fuse=fuse, distill=runs, merge={})).resolve()


def test_a_model_that_is_worse_is_said_with_the_likely_cause(tmp_path: Path, resolved) -> None:
    score(tmp_path, "sft", {"math": 0.56, "code": 0.42}, 1)
    score(tmp_path, "unified", {"math": 0.62, "code": 0.30}, 2)
    score(tmp_path, "source:a", {"math": 0.68, "code": 0.20}, 3)
    score(tmp_path, "source:b", {"math": 0.90, "code": 0.90}, 4)
    (said,) = last_words(RunFolder(tmp_path), resolved)
    assert said.startswith(
        "unified against sft, held-out bits per byte, lower is better: math +0.0"
    )
    assert "code -0.1" in said and said.count("On ") == 1
    assert "On math it is worse: no source predicts these answers as well" in said
    assert "(a the best of them, 0.6" in said and "Raise gold_weight" in said


def test_a_source_that_is_ahead_is_not_blamed(tmp_path: Path, resolved) -> None:
    score(tmp_path, "sft", {"code": 0.42}, 1)
    score(tmp_path, "unified", {"code": 0.50}, 2)
    score(tmp_path, "source:a", {"code": 0.30}, 3)
    (said,) = last_words(RunFolder(tmp_path), resolved)
    assert "On code it is worse although the source a is ahead of the fine-tuned pivot (0.2" in said


def test_chance_is_not_called_worse(tmp_path: Path, resolved) -> None:
    score(tmp_path, "sft", {"code": 0.42}, 1)
    score(tmp_path, "unified", {"code": 0.42}, 2)
    (said,) = last_words(RunFolder(tmp_path), resolved)
    assert "On code" not in said and " to +" in said


def test_without_held_out_data_it_says_that_it_cannot_tell(tmp_path: Path, resolved) -> None:
    (said,) = last_words(RunFolder(tmp_path), resolved)
    assert "cannot be told" in said and "Give data.held_out a file" in said


def test_scores_of_an_earlier_build_say_nothing(tmp_path: Path, resolved) -> None:
    place = RunFolder(tmp_path).evaluate("sft")
    place.mkdir(parents=True)
    (place / "scores.json").write_text(json.dumps({"bits_per_byte": {"math": 0.5}}))
    assert last_words(RunFolder(tmp_path), resolved) == []


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        size = rng.integers(10, 30, 80)
        change = 0.05 * size * math.log(2) + rng.normal(0, 1, 80)
        _, low, high = compared(change, np.zeros(80), size.astype(float))
        inside += low <= 0.05 <= high
    assert inside >= 88  # of 100 at 95 %: fewer than 88 has a chance of 1 in 300


def test_a_run_ends_with_its_last_word(
    suite: Path, make_recipe: Callable[..., dict], tmp_path: Path, caplog
) -> None:
    found = infifusion.run(make_recipe(suite), tmp_path / "out")
    values = json.loads((RunFolder(found.folder).evaluate("sft") / HELD_OUT).read_text())
    scores = json.loads((RunFolder(found.folder).evaluate("sft") / "scores.json").read_text())
    bits = sum(values["nats"]) / sum(values["bytes"]) / math.log(2)
    assert bits == pytest.approx(scores["bits_per_byte"]["sums"], abs=1e-4)
    said = (found.folder / "log.txt").read_text()
    assert "unified against sft, held-out bits per byte" in said
    assert "pairwise against sft" in said
