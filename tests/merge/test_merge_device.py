"""`infifusion merge --device`: from the option to the written file, on the torch road.

No GPU is needed: `torch:cpu`, which the command line does not take, is torch's CPU as a device.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from infifusion.commands.merge_models import merge_command
from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.engine import walker
from infifusion.merge.engine.device import check_device, choose_place
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.plan import MergePlan, plan_models
from infifusion.merge.engine.weights import run_plan
from infifusion.recipe import Merge
from infifusion.stages.merge import merge_checkpoints
from infifusion.store.hashes import sha256_of

SHAPES = {"a.weight": (300, 700), "b.bias": (1,), "empty": (0, 3), "norm": (8,), "scalar": ()}


def save(folder: Path, values: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def random_tensors(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=drawn).to(dtype) for name, shape in SHAPES.items()}


def plan_of(
    place: Path, method: str, *, dtype: torch.dtype = torch.bfloat16, **params
) -> MergePlan:
    folders = [place / name for name in ("base", "x", "y")]
    for seed, folder in enumerate(folders):
        if not folder.exists():
            save(folder, random_tensors(seed, dtype))
    base, *models = (replace(open_model(str(f), Path()), name=f.name) for f in folders)
    named = {model.name: model for model in models}
    return plan_models(named, base, method=method, params=params, dtype=None, seed=5)


METHODS = {
    "rsaf": {},
    "ties": {"density": 0.4},
    "della": {"density": 0.4, "epsilon": 0.2},
    "dare_linear": {"density": 0.3},
    "model_stock": {},
    "linear": {},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_on_a_device_writes_what_the_processor_writes(tmp_path, method, dtype):
    plan = plan_of(tmp_path, method, dtype=dtype, **METHODS[method])
    expected = run_plan(plan, tmp_path / "cpu")
    found = run_plan(plan, tmp_path / "device", device="torch:cpu")
    left = load_file(tmp_path / "cpu" / "model.safetensors")
    right = load_file(tmp_path / "device" / "model.safetensors")
    assert left.keys() == right.keys() == SHAPES.keys()
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert not torch.equal(right["a.weight"], base["a.weight"])
    for name in left:
        assert left[name].dtype == right[name].dtype == dtype
        # One rounding of the stored dtype, where a coefficient differs in its last bit.
        ulp = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-6}[dtype]
        torch.testing.assert_close(right[name], left[name], rtol=ulp, atol=1e-6)
    for one, other in zip(expected["tensors"], found["tensors"], strict=True):
        assert one.keys() == other.keys() and one.get("kept") == other.get("kept")


@pytest.mark.parametrize("method", METHODS)
def test_memory_and_threads_do_not_change_a_byte_on_a_device(tmp_path, method):
    plan = plan_of(tmp_path, method, **METHODS[method])
    options = [{"threads": 1}, {"threads": 8}, {"memory": 40_000_000, "threads": 1}]
    places = [choose_place(plan, "torch:cpu", **{"memory": None} | o) for o in options]
    assert places[2].arrays.step < places[0].arrays.step
    hashes = set()
    for n, one in enumerate(options):
        run_plan(plan, tmp_path / f"out{n}", device="torch:cpu", **one)
        hashes.add(sha256_of(tmp_path / f"out{n}" / "model.safetensors"))
    assert len(hashes) == 1


def test_nan_in_an_input_and_inf_in_the_result_are_named(tmp_path):
    plan = plan_of(tmp_path, "task_arithmetic", dtype=torch.float16, weight=1e6)
    with pytest.raises(CheckpointError, match="The merged tensor .* holds NaN or Inf as F16"):
        run_plan(plan, tmp_path / "out", device="torch:cpu")
    values = random_tensors(2, torch.float16)
    values["a.weight"][2, 3] = float("nan")
    save_file(values, tmp_path / "y" / "model.safetensors")
    plan = plan_of(tmp_path, "task_arithmetic")
    with pytest.raises(CheckpointError, match=r"a.weight of y holds 1 NaN or Inf of 210000"):
        run_plan(plan, tmp_path / "out", device="torch:cpu")
    run_plan(plan, tmp_path / "out", device="torch:cpu", allow_nan=True)
    merged = load_file(tmp_path / "out" / "model.safetensors")["a.weight"]
    assert merged.isnan().nonzero().tolist() == [[2, 3]]


def test_a_merge_does_not_go_on_where_the_other_road_was_killed(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "ties", density=0.4)
    real, written = walker._write_shard, []

    def killed(path, *rest):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(walker, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "out", shard_bytes=100)
    written.clear()
    monkeypatch.setattr(walker, "_write_shard", lambda p, *a: written.append(p.name) or real(p, *a))
    run_plan(plan, tmp_path / "out", device="torch:cpu", shard_bytes=100)
    shards = [p.name for p in (tmp_path / "out").glob("*.safetensors")]
    assert len(shards) == 2 and sorted(written) == sorted(shards)


def test_a_recipes_device_reaches_the_merge(tmp_path, monkeypatch):
    plan_of(tmp_path, "linear")
    gpus(monkeypatch, count=0)
    with pytest.raises(RecipeError, match="--device cuda:1: torch finds no GPU"):
        merge_checkpoints(
            {"x": tmp_path / "x", "y": tmp_path / "y"},
            base=tmp_path / "base",
            method="linear",
            params={},
            out=tmp_path / "out",
            dtype=None,
            seed=0,
            device=Merge(models=["x"], device="cuda:1").device,
        )
    with pytest.raises(ValueError, match="device"):
        Merge(models=["x"], device="gpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "torch:cpu", "CUDA", "mps", ""])
def test_an_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(RecipeError, match="Give cpu .* cuda, or cuda:1"):
        check_device(name)


def gpus(monkeypatch, *, count: int, free: int = 0) -> None:
    """Let torch say that it has so many GPUs."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free, free))


def test_a_device_that_is_not_there_is_refused_with_what_to_do(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "linear")
    gpus(monkeypatch, count=0)
    with pytest.raises(RecipeError, match="torch finds no GPU.*CUDA_VISIBLE_DEVICES"):
        run_plan(plan, tmp_path / "out", device="cuda")
    gpus(monkeypatch, count=2)
    with pytest.raises(RecipeError, match="there are 2 GPUs, cuda:0 to cuda:1"):
        run_plan(plan, tmp_path / "out", device="cuda:2")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(RecipeError, match="built without CUDA.*--device cpu"):
        run_plan(plan, tmp_path / "out", device="cuda")
    assert not (tmp_path / "out").exists()


def test_blocks_and_threads_fit_the_free_memory_of_the_device(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "ties", density=0.4)
    # One thread, as counted here, works on two blocks of 4 (2 models + base) + 128 bytes per
    # position: 280 bytes. The largest tensor has 210,000 positions, 58.8 MB.
    gpus(monkeypatch, count=1, free=10**9)
    place = choose_place(plan, "cuda", threads=None, memory=None)
    assert (place.threads, place.arrays.block) == (2, 1 << 24)
    assert place.device_memory == 2 * 280 * 210_000
    place = choose_place(plan, "cuda", threads=None, memory=100_000_000)
    assert (place.threads, place.arrays.block) == (2, 1 << 17)
    assert place.device_memory == 2 * 280 * (1 << 17)
    place = choose_place(plan, "cuda", threads=4, memory=40_000_000)
    assert (place.threads, place.device_memory) == (1, 280 * (1 << 17))
    gpus(monkeypatch, count=1, free=30_000_000)
    with pytest.raises(RecipeError, match="24 MB for this merge.*one thread needs 37 MB"):
        choose_place(plan, "cuda", threads=None, memory=None)


def merge_file(place: Path) -> Path:
    plan_of(place, "linear")
    listed = [{"model": str(place / name)} for name in "xy"]
    recipe = {"merge_method": "ties", "base_model": str(place / "base"), "models": listed}
    path = place / "merge.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_the_plan_says_what_it_needs_of_the_device(tmp_path, monkeypatch):
    gpus(monkeypatch, count=1, free=10**9)
    options = {"base": None, "dry_run": False, "threads": None, "shard_size": "5GB"}
    options |= {"allow_nan": False, "allow_pickle": False, "memory": None}
    text, values = merge_command(
        merge_file(tmp_path), None, plan_only=True, device="cuda", **options
    )
    assert values["device"] == "cuda" and values["device_memory"] == 2 * 280 * 210_000
    assert "device    cuda, about 0.12 GB of its memory" in text
    text, values = merge_command(
        merge_file(tmp_path), None, plan_only=True, device="cpu", **options
    )
    assert values["device_memory"] == 0 and "device " not in text
    with pytest.raises(RecipeError, match="The device 'gpu' is unknown"):
        merge_command(merge_file(tmp_path), None, plan_only=True, device="gpu", **options)


def test_a_merge_without_a_device_imports_no_torch(tmp_path):
    code = (
        "import sys; from typer.testing import CliRunner; from infifusion.commands.cli import app; "
        f"found = CliRunner().invoke(app, ['merge', {str(merge_file(tmp_path))!r}, "
        f"{str(tmp_path / 'out')!r}]); print(found.exit_code, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["0", "False"], found.stdout + found.stderr
    assert np.isfinite(load_file(tmp_path / "out" / "model.safetensors")["norm"].float()).all()


def test_the_command_line_passes_the_device_on(tmp_path):
    command = [sys.executable, "-m", "infifusion", "merge", str(merge_file(tmp_path))]
    found = subprocess.run([*command, "--plan", "--device", "gpu"], capture_output=True, text=True)
    assert found.returncode == 2 and "The device 'gpu' is unknown" in found.stderr
