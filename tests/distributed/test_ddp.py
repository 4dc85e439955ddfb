from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

RUNS = {"unified": "none", "gated": "pivot"}


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_does(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    def run(name: str, processes: int, batch: int) -> dict[str, torch.Tensor]:
        training = {
            "optim": "sgd",
            "learning_rate": 0.5,
            "max_steps": 3,
            "per_device_train_batch_size": batch,
            "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        }
        values = make_recipe(suite, training=training, merge={})
        values["distill"] = {run: {"target": "unified", "gate": gate} for run, gate in RUNS.items()}
        values["fuse"] = {"unified": {"function": "mean", "gate": "none"}}
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command = [
            sys.executable,
            *(launcher if processes > 1 else []),
            "-m",
            "infifusion",
            "run",
            str(recipe),
            "--run-dir",
            str(tmp_path / name),
            "--until",
            "distill",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        return {
            f"{run} {key}": tensor
            for run in RUNS
            for key, tensor in load_file(
                tmp_path / name / "distill" / run / "model" / "model.safetensors"
            ).items()
        }

    one, two = run("one", 1, 4), run("two", 2, 2)
    start = load_file(suite / "pivot" / "model.safetensors")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert any(not torch.equal(start[n], one[f"unified {n}"]) for n in start)
    assert any(not torch.equal(one[f"gated {n}"], one[f"unified {n}"]) for n in start)
