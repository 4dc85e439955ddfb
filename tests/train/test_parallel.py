from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from infifusion.errors import RecipeError
from infifusion.train.arguments import make_arguments
from infifusion.train.parallel import FSDP, environment_restored, parallel_settings


def test_fsdp_with_several_processes_is_fsdp2_with_whole_checkpoints(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    values = {"fsdp_config": {"reshard_after_forward": False}}
    found = parallel_settings("fsdp", values)
    assert found["fsdp"] is True
    assert found["fsdp_config"] == {**FSDP, "reshard_after_forward": False}
    assert FSDP["version"] == 2 and FSDP["state_dict_type"] == "FULL_STATE_DICT"


def test_one_process_has_nothing_to_share(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "fsdp" not in parallel_settings("fsdp", {"fsdp_config": {"version": 2}})


@pytest.mark.parametrize(
    ("parallel", "values", "said"),
    [
        ("ddp", {"fsdp_config": {"version": 2}}, "parallel: fsdp"),
        ("ddp", {"deepspeed": {"bf16": {}}}, "parallel: deepspeed"),
        ("fsdp", {"deepspeed": "zero3.json"}, "parallel: deepspeed"),
    ],
)
def test_settings_of_another_way_than_the_one_named_are_refused(parallel, values, said) -> None:
    with pytest.raises(RecipeError, match=f"says parallel: {parallel}. Write `{said}`"):
        parallel_settings(parallel, values)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is here")
def test_deepspeed_without_its_package_says_what_to_install() -> None:
    with pytest.raises(RecipeError, match="pip install deepspeed"):
        parallel_settings("deepspeed", {})


@pytest.mark.parametrize("before", [None, "false"])
@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_the_environment_is_as_before_after_a_run(monkeypatch, name, before: str | None) -> None:
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with environment_restored():
        os.environ[name] = "true"
    assert os.environ.get(name) == before


def test_processes_wait_for_the_one_that_writes_a_large_checkpoint(tmp_path: Path) -> None:
    """Weights in float32 and Adam's moments of 32 billion parameters, on a network's disk."""

    def patience(**values: object) -> int:
        return make_arguments(values, out=tmp_path, seed=0, bf16_by_default=False).ddp_timeout

    checkpoint, per_second = 12 * 32e9, 200e6
    assert patience() > 3 * checkpoint / per_second, "written, synced, and read to be signed"
    assert patience(ddp_timeout=60) == 60
