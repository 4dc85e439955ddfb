"""The lock of a folder."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from infifusion.errors import ArtifactError, BusyError, RunError
from infifusion.store.artifacts import open_stage
from infifusion.store.lock import LOCK, claim, dead_peer, hold, release_claims
from infifusion.store.spread import wait_for

HOLDER = """
import sys, time
from pathlib import Path
from infifusion.store.lock import hold
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


def _claims(place: Path) -> subprocess.CompletedProcess[str]:
    script = (
        "from pathlib import Path\nfrom infifusion.store.lock import claim\n"
        f"claim(Path({str(place)!r}))"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_a_claim_holds_until_it_is_released_also_where_a_fork_lives_on(tmp_path: Path) -> None:
    place = tmp_path / "shared" / "teach-1"
    claim(place)
    assert "BusyError" in _claims(place).stderr
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        release_claims()
        assert _claims(place).returncode == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_on_a_file_system_without_locks_a_claim_keeps_off_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "shared" / "teach-1"
    real = fcntl.flock

    def flock(file: IO[str], how: int) -> None:
        if Path(file.name).parent == place.parent:
            raise OSError(38, "Function not implemented")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    claim(place)
    try:
        with pytest.raises(BusyError, match="teach-1 is being made by another process"):
            claim(place)  # another open file is another owner
    finally:
        release_claims()
    claim(place)
    release_claims()
