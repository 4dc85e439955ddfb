"""A whole run with planted secrets, in a home folder: none of it is in anything that is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infifusion.store.records import read_json

TOKEN = "hf_" + "Planted0" * 5
ENVIRONMENT = {"HF_TOKEN": "hf_" + "Environ1" * 5, "WANDB_API_KEY": "planted-wandb-0123456789"}


def run(*arguments: object, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infifusion", *map(str, arguments)]
    env = {**os.environ, **ENVIRONMENT, "HOME": str(home), "MARK": "planted-mark-in-environment"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=600, env=env, check=False
    )


@pytest.mark.slow
def test_no_secret_and_no_home_path_is_written_or_said(suite, make_recipe, tmp_path):
    home = tmp_path / "home" / "planted-user"
    shutil.copytree(suite, home / "models")
    values = make_recipe(home / "models")
    values["training"] = {**values["training"], "max_steps": 2, "hub_model_id": TOKEN}
    values["sources"].pop("c")
    values["fuse"].pop("pair")
    values["distill"] = {"lora": {"target": "unified", "lora": {"r": 2}}}
    values["merge"] = {"merged": {"method": "linear", "models": ["lora"]}}
    (home / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    arguments = ("run", home / "recipe.yaml", "--run-dir", home / "run")
    done = run(*arguments, "--set", f"pivot.revision={TOKEN}", home=home, cwd=home)
    assert done.returncode == 0, done.stderr
    planted = [TOKEN, *ENVIRONMENT.values(), "planted-mark", str(home)]
    looked_at, holders = 0, {}
    for path in sorted((home / "run").rglob("*")):
        if path.is_file():
            looked_at += 1
            content = path.read_bytes()
            if found := [one for one in planted if one.encode() in content]:
                holders[str(path.relative_to(home))] = found
    assert not holders
    assert looked_at > 40
    for said in (done.stdout, done.stderr):
        assert not [one for one in planted if one in said]
    resolved = read_json(home / "run" / "resolved.json")
    assert resolved["recipe"]["pivot"]["model"] == "~/models/pivot"
    assert resolved["recipe"]["training"]["hub_model_id"] == "REDACTED"
    # The copy of the recipe, with ~ for the home folder, is the same: every stage is done.
    copied = run(
        *("run", home / "run" / "recipe.yaml", "--run-dir", home / "run"),
        *("--set", f"pivot.revision={TOKEN}"),
        home=home,
        cwd=tmp_path,
    )
    assert copied.returncode == 0, copied.stderr
