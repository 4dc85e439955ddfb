"""The lock of a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infifusion.artifacts import open_stage
from infifusion.errors import ArtifactError, RunError
from infifusion.lock import LOCK, dead_peer, hold
from infifusion.stages.spread import wait_for

HOLDER = """
import sys, time
from pathlib import Path
from infifusion.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    try:
        words = rf"in use by process {process.pid} on .*ago"
        with pytest.raises(ArtifactError, match=words), hold(tmp_path):
            raise AssertionError("held twice")
    finally:
        process.kill()
        process.wait()


def test_a_killed_owner_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == process.pid
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "new"):
        raise ZeroDivisionError
    assert list((tmp_path / "new").iterdir()) == []
    with hold(tmp_path / "new"):
        pass


def test_each_process_of_a_run_holds_a_lock_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with hold(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with hold(tmp_path):
            assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, f"{LOCK}-1"]
        monkeypatch.setenv("RANK", "0")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_of_another_machine_that_nobody_holds_stops_no_one(tmp_path: Path) -> None:
    owner = {"pid": 1, "machine": "elsewhere", "since": 0.0}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_the_death_of_another_process_ends_the_wait_for_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    process = start_holder(tmp_path)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match=rf"Process 1 of 2 \(pid {process.pid}") as caught:  # noqa: SIM117
        with hold(tmp_path):
            process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
            process.wait()
            wait_for([tmp_path / "its work"], "test")
    reason = "it was killed" if how == "killed" else "KeyboardInterrupt"
    assert reason in str(caught.value) and "Run the same command again" in str(caught.value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with hold(tmp_path):  # what the two left stops no one
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_wait_for_files_ends_when_the_folder_of_the_run_vanishes(tmp_path: Path) -> None:
    # What a lone process waits for is its own: it lay in the folder a moment ago.
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"run folder .*/run vanished"), hold(folder):
        folder.rename(tmp_path / "away")
        wait_for([folder / "its own work"], "test")


def test_a_process_that_waits_for_another_to_redo_a_stage_stops_when_that_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tmp_path / "stage"
    open_stage(stage, {"top_k": 1})
    monkeypatch.setenv("WORLD_SIZE", "2")
    process = start_holder(tmp_path)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunError, match="Process 0 of 2"), hold(tmp_path):
        process.kill()
        process.wait()
        open_stage(stage, {"top_k": 2}, redo=True)


def test_a_process_that_has_not_begun_or_is_done_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with hold(tmp_path):
        assert dead_peer() is None
        monkeypatch.setenv("RANK", "1")
        process = start_holder(tmp_path)
        monkeypatch.setenv("RANK", "0")
        assert dead_peer() is None
        process.kill()
        process.wait()
        assert "Process 1 of 2" in str(dead_peer())
