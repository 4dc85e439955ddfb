"""What decides a model's scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from infifusion.evals.tasks import TASKS
from infifusion.recipe import Recipe
from infifusion.stages.evaluate import decides_scores, evaluate, settings_of
from infifusion.stages.prepare import prepare
from infifusion.store.folders import RunFolder


def test_scores_of_a_sample_of_the_items_belong_to_the_seed_that_drew_it(make_recipe) -> None:
    def settings(seed: int, **evaluate: int) -> dict:
        values = make_recipe(Path("models"), seed=seed, evaluate=evaluate)
        return settings_of(Recipe.from_mapping(values, where="here"))

    assert settings(0) == settings(1)
    assert settings(0, limit=5) == settings(0, limit=5)
    assert settings(0, limit=5) != settings(1, limit=5)
    assert settings(0, limit=5) != settings(0, limit=6)


def test_scores_by_other_rules_are_others() -> None:
    """Else a run that goes on compares models that were judged in two ways."""
    task = TASKS["gsm8k"]
    now = decides_scores(task, None)
    assert now == {"gsm8k_test.jsonl": "hub", "scoring": 3}
    assert decides_scores(replace(task, scoring=1), None) == {"gsm8k_test.jsonl": "hub"}


def test_a_model_is_evaluated_as_it_taught_on_its_devices_and_in_its_dtype(
    suite: Path, make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a source of 70 billion parameters teaches, and days later does not fit one device."""
    loaded = []
    load = AutoModelForCausalLM.from_pretrained

    def noted(*arguments: Any, **settings: Any) -> Any:
        loaded.append((settings.get("device_map"), settings.get("dtype")))
        return load(*arguments, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    line = json.dumps({"question": "1+1?", "answer": "It is 2.\n#### 2"}) + "\n"
    for part in ("train", "test"):
        (tmp_path / f"gsm8k_{part}.jsonl").write_text(line * 5)
    asked = {"tasks": ["gsm8k"], "data": str(tmp_path), "limit": 1, "max_new_tokens": 2}
    values = make_recipe(suite, evaluate=asked, fuse={}, distill={"sft": {}}, merge={})
    values["sources"]["a"] |= {"device_map": "auto", "dtype": "bfloat16"}
    recipe, folder = Recipe.from_mapping(values, where="here"), RunFolder(tmp_path / "run")
    prepare(recipe, folder)
    evaluate(recipe, folder, "source:a", recipe.resolve())
    assert loaded == 2 * [("auto", torch.bfloat16)], "for the task, and for bits per byte"


def test_scores_of_drawn_answers_belong_to_how_they_were_drawn(make_recipe) -> None:
    def settings(seed: int, **evaluate: object) -> dict:
        values = make_recipe(Path("models"), seed=seed, evaluate=evaluate)
        return settings_of(Recipe.from_mapping(values, where="here"))

    drawn = {"samples": 4, "temperature": 0.8}
    assert settings(0, **drawn) != settings(1, **drawn) != settings(1)
    assert settings(0, **drawn) != settings(0, **drawn, top_p=0.9)
    assert settings(0) == {"limit": None, "max_new_tokens": None, "batch_size": 64,
                           "unsafe_code": False}, "as earlier builds wrote it"  # fmt: skip


def test_programs_are_judged_by_other_rules_than_earlier_builds_had() -> None:
    assert decides_scores(TASKS["humaneval"], None) == {"humaneval.jsonl": "hub", "scoring": 2}
    assert decides_scores(TASKS["mbpp"], None) == {"mbpp.jsonl": "hub"}
