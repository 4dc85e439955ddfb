"""Workers of a sweep whose own process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import lives

PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from infifusion.sweep.run import _start_worker

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    made = {"mp_context": context, "initializer": _start_worker, "initargs": (1, sys.argv[1])}
    with ProcessPoolExecutor(1, **made) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_no_worker_outlives_a_sweep_that_is_killed(tmp_path: Path) -> None:
    """It would hold its claims, and the next sweep would wait for it for ever."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        deadline = time.monotonic() + 30
        while lives(worker):
            assert time.monotonic() < deadline, "the worker lives on"
            time.sleep(0.05)
    finally:
        if lives(worker):
            os.kill(worker, signal.SIGKILL)
