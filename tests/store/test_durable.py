"""What killed writers leave, and what is on the disk when a file has its name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infifusion.errors import RunError
from infifusion.store.artifacts import MANIFEST, STARTED, State, close_stage, open_stage
from infifusion.store.durable import atomic_folder, atomic_write, remove_leftovers

WRITER = """
import sys, time
from pathlib import Path
from infifusion.store.durable import atomic_folder, atomic_write
folder = Path(sys.argv[1])
with atomic_write(folder / "deep" / "file") as one, atomic_folder(folder / "model") as two:
    one.write_text("half")
    (two / "weights").write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    return process


def test_leftovers_of_the_dead_go_and_work_of_the_living_stays(tmp_path: Path) -> None:
    process = start_writer(tmp_path)
    hidden = sorted(path.name for path in tmp_path.rglob(".*.tmp"))
    assert len(hidden) == 2
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob(".*.tmp")) == hidden
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "deep" / "kept").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["deep", "kept"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_contents_are_synced_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        steps.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        steps.append(f"rename to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    if kind == "file":
        with atomic_write(tmp_path / "x") as path:
            path.write_text("content")
        assert steps[0].startswith("sync .x.")
        assert steps[1:] == ["rename to x", f"sync {tmp_path.name}"]
    else:
        with atomic_folder(tmp_path / "x") as path:
            (path / "a").write_text("content")
        assert steps == ["sync a", "sync new", "rename to x", f"sync {tmp_path.name}"]


def test_a_file_system_that_does_not_sync_folders_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def on_a_mounted_drive(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", on_a_mounted_drive)
    with atomic_write(tmp_path / "x") as path:
        path.write_text("content")
    assert (tmp_path / "x").read_text() == "content"

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"), atomic_write(tmp_path / "y") as path:
        path.write_text("content")
    assert not (tmp_path / "y").exists()


def test_scratch_of_a_signed_stage_goes_when_it_is_signed_or_when_it_is_next_seen(
    tmp_path: Path,
) -> None:
    stage = tmp_path / "stage"
    assert open_stage(stage, {"a": 1}) is State.FRESH
    (stage / "x").write_text("content")
    (stage / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    close_stage(stage, {"a": 1}, counts={}, seconds=0.0, files=[stage / "x"])
    assert sorted(path.name for path in stage.iterdir()) == [MANIFEST, "x"]
    # A process that was killed right after it had signed.
    (stage / "done").mkdir()
    (stage / STARTED).write_text("{}")
    assert open_stage(stage, {"a": 1}) is State.DONE
    assert sorted(path.name for path in stage.iterdir()) == [MANIFEST, "x"]


def test_a_folder_that_vanished_and_was_made_again_by_a_write_is_not_signed(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    open_stage(stage, {"a": 1})
    stage.rename(tmp_path / "elsewhere")
    with atomic_write(stage / "shard") as path:
        path.write_text("the last of three")
    with pytest.raises(RunError, match=r"stage vanished while the stage was under way"):
        close_stage(stage, {"a": 1}, counts={}, seconds=0.0, files=[stage / "shard"])
    assert not (stage / MANIFEST).exists()
