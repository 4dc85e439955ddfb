"""check without a network: it takes what is cached at once, and says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def nobody() -> str:
    """An endpoint at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def check(
    folder: Path, values: dict, endpoint: str, *options: str, command: str = "check"
) -> subprocess.CompletedProcess:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    out = {"HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"}
    env = {name: value for name, value in os.environ.items() if name not in out}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache")}
    words = [sys.executable, "-m", "infifusion", command, str(folder / "recipe.yaml"), *options]
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=120)


def test_data_of_the_hub_is_not_waited_for(
    suite: Path, make_recipe, tmp_path: Path, nobody: str
) -> None:
    sets = [{"path": f"no-such-org/data-{n}", "domain": "d"} for n in range(4)]
    recipe = make_recipe(suite, data={"train": sets})
    found = check(tmp_path, recipe, nobody, "--offline")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("not looked at") == 4
    for command in ("check", "run"):
        options = () if command == "check" else ("--run-dir", str(tmp_path / "r"))
        began = time.monotonic()
        found = check(tmp_path, recipe, nobody, *options, command=command)
        assert found.returncode == 2 and "no-such-org/data-0" in found.stderr, found.stderr
        assert f"{nobody} cannot be reached" in found.stderr and "Retrying" not in found.stderr
        assert time.monotonic() - began < 60


def test_a_recipe_of_local_files_asks_nobody(
    suite: Path, make_recipe, tmp_path: Path, nobody: str
) -> None:
    found = check(tmp_path, make_recipe(suite), nobody)
    assert found.returncode == 0 and "cannot be reached" not in found.stderr
