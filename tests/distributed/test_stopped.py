"""Runs of two processes under torchrun that are stopped, or lose one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import lives

from infifusion.store.lock import LOCK

MODEL = "distill/unified/model"
WITHIN = 60.0  # seconds; the other process has stopped by then


@pytest.fixture(scope="module")
def recipe(suite: Path, make_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training long enough to be stopped between two of its checkpoints."""
    values = make_recipe(
        suite,
        fuse={"unified": {"function": "mean", "gate": "none"}},
        distill={"unified": {"target": "unified"}},
        merge={},
        training={
            "max_steps": 60,
            "save_steps": 10,
            "logging_steps": 1,
            "per_device_train_batch_size": 2,
        },
    )
    file = tmp_path_factory.mktemp("stopped") / "recipe.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    """What two processes make of it undisturbed."""
    out = recipe.with_name("undisturbed")
    assert torchrun(recipe, out).wait(280) == 0, said(out)
    return out


def torchrun(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    """Two processes of `infifusion run`, started by torchrun; `said` is what they say."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, "-m", "infifusion", "run", str(recipe)]
    with out.with_suffix(".txt").open("wb") as file:
        return subprocess.Popen(
            [*command, "--run-dir", str(out), "--until", "distill"],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )


def said(out: Path) -> str:
    return out.with_suffix(".txt").read_text(encoding="utf-8", errors="replace")


def pids_in_training(out: Path, launcher: subprocess.Popen[bytes]) -> list[int]:
    """The two processes, once there is a checkpoint that both have signed."""
    while not list(out.glob("distill/*/checkpoints/*/whole.json")):
        assert launcher.poll() is None, said(out)
        time.sleep(0.01)
    return [json.loads((out / name).read_text())["pid"] for name in (LOCK, f"{LOCK}-1")]


def require_the_same(recipe: Path, out: Path, undisturbed: Path) -> None:
    """Start it again, and compare."""
    assert not (out / MODEL).exists()
    assert torchrun(recipe, out).wait(280) == 0, said(out)
    weights = [(one / MODEL / "model.safetensors").read_bytes() for one in (out, undisturbed)]
    assert weights[0] == weights[1]
    history = Path("distill/unified/history.json")
    logs = [json.loads((one / history).read_text())["log"] for one in (out, undisturbed)]
    assert len(logs[0]) == 60 and logs[0] == logs[1]


@pytest.mark.slow
def test_sigterm_to_torchrun_ends_both_with_one_message_and_the_run_goes_on(
    recipe: Path, undisturbed: Path
) -> None:
    out = recipe.with_name("stopped")
    launcher = torchrun(recipe, out)
    pids = pids_in_training(out, launcher)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(WITHIN) != 0
    assert not any(lives(pid) for pid in pids)
    assert said(out).count("Stopped. What was finished is kept.") == 1, said(out)
    assert "has ended" not in said(out), said(out)
    require_the_same(recipe, out, undisturbed)


@pytest.mark.slow
def test_the_death_of_one_of_two_under_torchrun_ends_the_other_and_the_run_goes_on(
    recipe: Path, undisturbed: Path
) -> None:
    out = recipe.with_name("lost")
    launcher = torchrun(recipe, out)
    pids = pids_in_training(out, launcher)
    os.kill(pids[0], signal.SIGKILL)
    assert launcher.wait(WITHIN) != 0
    assert not any(lives(pid) for pid in pids)
    assert f"Process 0 of 2 (pid {pids[0]}" in said(out), said(out)
    require_the_same(recipe, out, undisturbed)
