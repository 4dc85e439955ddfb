"""A real file system of a megabyte."""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infifusion.errors import RunError
from infifusion.recipe import load_recipe
from infifusion.stages.fuse import target_arrays
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


def test_a_target_that_the_disk_cannot_hold_is_an_error_and_not_a_signal(small_disk: Path) -> None:
    # Holes in a mapped file that cannot be filled would end the process by SIGBUS, without a word.
    with pytest.raises(OSError, match="No space left on device") as caught:
        target_arrays(small_disk / "target", 100_000, 3, 10, 10)
    assert caught.value.errno == errno.ENOSPC
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def test_a_disk_that_fills_up_is_said_with_what_is_still_to_be_written(
    suite: Path, make_recipe, small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(make_recipe(suite)), encoding="utf-8")
    out = small_disk / "out"

    def run(until: str) -> None:
        run_recipe(load_recipe(path), out, until=until, recipe_file=path, command="")

    run("prepare")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(RunError, match="No space left on device") as caught:
        run("teach")
    words = r"Still to be written: about [0-9,]+ bytes; [0-9,]+ bytes are free on the disk of "
    assert re.search(words, str(caught.value)) and "run the same command again" in str(caught.value)
    assert not list(out.glob("teach/*/manifest.json"))
    ballast.unlink()
    run("teach")
    assert len(list(out.glob("teach/*/manifest.json"))) == 4  # three sources and the pivot
