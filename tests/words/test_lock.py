"""The lock of a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infifusion.errors import ArtifactError
from infifusion.lock import LOCK, hold

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


def test_other_ranks_do_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with hold(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists()
