"""Runs a command until the process that started this one lets go of a pipe, however it ends.

    python keeper.py DESCRIPTOR COMMAND...

The pipe is closed by the kernel when that process dies, also by SIGKILL (a worker that it forked
may hold the pipe open, so its number is looked at, too); then everything that the command started
is ended: asked first, killed after GRACE seconds. Ends with the command's status.
It stands alone: it is run by its path, and imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

import psutil

GRACE = 10.0
SUBREAPER = 36  # prctl.h: orphans below become our children, so that none is lost sight of
LOOK = 0.2


def main() -> int:
    """See above."""
    pipe, command, parent = int(sys.argv[1]), sys.argv[2:], os.getppid()
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: _end_all(1))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command, close_fds=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127
    while child.poll() is None:
        readable, _, _ = select.select([pipe], [], [], LOOK)
        if (readable and not os.read(pipe, 1)) or os.getppid() != parent:
            _end_all(0)
    _end_all(child.returncode if child.returncode >= 0 else 128 - child.returncode)
    return 0


def _end_all(status: int) -> None:
    """End all that runs below this process, and this one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + GRACE
    asked: set[int] = set()
    while below := [p for p in psutil.Process().children(recursive=True) if _runs(p)]:
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() > until:
                    process.kill()
                elif process.pid not in asked:
                    asked.add(process.pid)
                    process.terminate()
        time.sleep(LOOK / 2)
    os._exit(status)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main())
