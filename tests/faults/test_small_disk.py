"""A real file system of a megabyte."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infifusion.errors import RunError
from infifusion.recipe import load_recipe
from infifusion.stages.run import run_recipe


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted tmpfs of one megabyte; skips where this machine does not allow it."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_that_the_disk_cannot_hold_does_not_begin_and_goes_on_when_it_can(
    suite: Path, make_recipe, small_disk: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(make_recipe(suite)), encoding="utf-8")
    out = small_disk / "out"

    def run(until: str) -> None:
        run_recipe(load_recipe(path), out, until=until, recipe_file=path, command="")

    with pytest.raises(RunError, match=r"needs about [0-9,]+ more bytes, and .* has [0-9,]+ free"):
        run("report")
    assert (out / "prepare/manifest.json").exists() and not (out / "teach").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    run("teach")
    assert (out / "teach/c/manifest.json").exists()
