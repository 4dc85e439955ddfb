"""The search for a merge's settings that the docs show, run as it is on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_whole_run import command

from infifusion.store.records import read_json

SEARCH = Path(__file__).parents[2] / "recipes" / "merge" / "search.yaml"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(suite: Path, tmp_path: Path) -> Path:
    """The file, and beside it what it names: base, math, code, texts; tasks of the demo."""
    tensors = load_file(suite / "pivot" / WEIGHTS)
    for seed, name in enumerate(("base", "math", "code")):
        shutil.copytree(suite / "pivot", tmp_path / name)
        torch.manual_seed(seed)
        changed = {k: t + 0.02 * seed * torch.randn_like(t) for k, t in tensors.items()}
        save_file(changed, tmp_path / name / WEIGHTS, metadata={"format": "pt"})
    shutil.copy(suite / "train.jsonl", tmp_path / "train.jsonl")
    shutil.copy(suite / "held_out.jsonl", tmp_path / "choose.jsonl")
    (tmp_path / "tasks").mkdir()
    items = [{"id": f"i{n}", "prompt": "Ben", "response": "1 #### 1", "answer": "1"}
             for n in range(4)]  # fmt: skip
    text = "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "tasks" / "demo_word.jsonl").write_text(text, encoding="utf-8")
    values = yaml.safe_load(SEARCH.read_text(encoding="utf-8"))
    values["recipe"]["evaluate"] = {
        "tasks": ["demo_word"],
        "tasks_from": "infifusion.demo.tasks:TASKS",
        "data": str(tmp_path / "tasks"),
        "max_new_tokens": 4,
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path


def test_every_combination_is_merged_scored_and_compared(folder: Path) -> None:
    first = folder / "runs" / "search"
    found = command("sweep", folder / "search.yaml", "--run-dir", first)
    assert found.exit_code == 0, found.output
    arms = read_json(first / "results.json")["arms"]
    merged = [arm for arm in arms if str(arm).startswith("found")]
    assert len(merged) == 9 and len(arms) == 12
    models = sorted((first).rglob("merge/*/model/model.safetensors"))
    assert len({path.read_bytes() for path in models}) == 9
    more = ["--set", "name=search-2", "--shared", first / "shared"]
    more += ["--set", "recipe.merge.found.params.density=[0.5, 1.0]"]
    more += ["--set", "recipe.merge.found.params.weight=[[0.7, 0.7], [0.8, 0.7]]"]
    second = folder / "runs" / "search-2"
    found = command("sweep", folder / "search.yaml", "--run-dir", second, *more)
    assert found.exit_code == 0, found.output
    arms = read_json(second / "results.json")["arms"]
    assert len([arm for arm in arms if str(arm).startswith("found")]) == 4
