"""A pivot that learns from its own text, in two processes of torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import arithmetic, learn
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from infifusion.store.records import read_json


@pytest.mark.slow
def test_two_processes_write_and_learn_what_one_does(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    pivot = AutoModelForCausalLM.from_pretrained(suite / "pivot")
    tokenizer = AutoTokenizer.from_pretrained(suite / "pivot")
    pairs = [(one["prompt"], one["response"]) for one in map(arithmetic, range(40))]
    learn(pivot, tokenizer, pairs, steps=60)
    pivot.save_pretrained(tmp_path / "pivot")
    tokenizer.save_pretrained(tmp_path / "pivot")

    def run(name: str, processes: int, batch: int) -> tuple[dict[str, torch.Tensor], list]:
        values = make_recipe(suite, merge={})
        values["pivot"] = {"model": str(tmp_path / "pivot")}
        values["training"] = {
            "optim": "sgd",
            "learning_rate": 0.5,
            "max_steps": 2,
            "per_device_train_batch_size": batch,
            "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        }
        values["fuse"] = {"unified": {"gate": "none", "teacher": "online"}}
        own = {"share": 0.75, "max_new_tokens": 20, "round_steps": 2, "reduction": "sequence"}
        values["distill"] = {"own": {"target": "unified", "loss": "kl", "on_policy": own}}
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "infifusion", "run"]
        command += [str(recipe), "--run-dir", str(tmp_path / name), "--until", "distill"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        out = tmp_path / name / "distill/own"
        answers = [
            (one["prompt"], one["answer"])
            for path in sorted((out / "rounds").glob("round-000000*.json"))
            for one in read_json(path)["answers"]
        ]
        return load_file(out / "model/model.safetensors"), answers

    (one, first), (two, second) = run("one", 1, 8), run("two", 2, 4)
    assert len(first) == 12 and sorted(first) == sorted(second)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    manifest = read_json(tmp_path / "two/distill/own/manifest.json")
    names = [name for name in manifest["files"] if name.endswith("of2.safetensors")]
    assert names == ["rounds/round-000000-1of2.safetensors", "rounds/round-000000-2of2.safetensors"]
