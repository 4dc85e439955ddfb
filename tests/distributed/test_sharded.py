"""FSDP2 and ZeRO-3 on two gloo processes: the model that DDP trains, sharded, and saved whole."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("pivot", ["pivot", "c"])  # tied and untied embeddings
@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("deepspeed", marks=needs_deepspeed)])
def test_sharded_processes_train_the_model_that_whole_ones_do(
    suite: Path, make_recipe, tmp_path: Path, pivot: str, parallel: str
) -> None:
    training = {
        "optim": "sgd",
        "learning_rate": 0.5,
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
    }
    values = make_recipe(suite, training=training, merge={})
    values["pivot"] = {"model": str(suite / pivot)}
    values["fuse"] = {"unified": {"function": "mean", "sources": ["a", "b"], "gate": "none"}}
    same = {"target": "unified", "loss_rows": 7}
    # Sharded first: what accelerate remembers of it must not reach the run after it.
    values["distill"] = {"sharded": {**same, "parallel": parallel}, "whole": same}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "infifusion", "run", str(recipe), "--run-dir", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, "--until", "distill"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def of(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
        folder = tmp_path / "run" / "distill" / name
        history = json.loads((folder / "history.json").read_text())
        assert (folder / "model" / "tokenizer.json").exists()
        return history, load_file(folder / "model" / "model.safetensors")

    (sharded_history, sharded), (whole_history, whole) = of("sharded"), of("whole")
    assert sharded_history["parallel"] == parallel.upper()
    assert whole_history["parallel"] == "MULTI_CPU"
    assert sharded_history["parameters"] == whole_history["parameters"]
    start = load_file(suite / pivot / "model.safetensors")
    assert sharded.keys() == whole.keys() == start.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(sharded[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert any(not torch.equal(start[name], tensor) for name, tensor in sharded.items())
