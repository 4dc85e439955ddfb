"""`infifusion run` as processes forked from one that has imported everything: no start-up to wait
for, so that a fault every second or two is affordable.

A child's clocks stand still: what is left to differ between two runs is an error.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "80",
}

import lm_eval.evaluator  # noqa: F401
import torch
from tqdm import tqdm

import infifusion.commands.cli

for name in ("stages.run", "evals.generation", "evals.lm_tasks"):
    importlib.import_module(f"infifusion.{name}")
torch.set_num_threads(1)
tqdm.monitor_interval = 0  # no thread of its own: a fork may not split it from its locks

NOON = 1_800_000_000.0  # what time.time() says in a child
LIMIT = 120.0  # seconds; a child that takes longer has hung


def freeze() -> None:
    """Call once before the first child: garbage collection then skips what all children share."""
    gc.collect()
    gc.freeze()


class Child:
    """One `infifusion` process; `said` is the file of its standard output and error."""

    def __init__(self, pid: int, said: Path) -> None:
        self.pid, self.said = pid, said
        self._status: int | None = None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Its exit status; -N where signal N killed it; None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, seconds: float = LIMIT) -> int:
        """Its exit status. One that hangs says where its threads are, and is killed."""
        ends = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > ends:
                self.send(signal.SIGUSR1)
                time.sleep(1.0)
                self.send(signal.SIGKILL)
            time.sleep(0.005)
        return status

    def words(self) -> str:
        """What it said."""
        return self.said.read_text(encoding="utf-8", errors="replace")


def start(
    arguments: list[str],
    said: Path,
    *,
    before: Callable[[], None] = lambda: None,
    environment: dict[str, str] | None = None,
) -> Child:
    """Fork `infifusion ARGUMENTS`; `before` runs in the child, before the command does."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, said)
    status = 1
    try:
        silent = os.open(os.devnull, os.O_RDONLY)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for old, new in ((silent, 0), (file, 1), (file, 2)):
            os.dup2(old, new)
        faulthandler.register(signal.SIGUSR1, file=2)
        os.environ |= environment or {}
        sys.argv = ["infifusion", *arguments]
        time.time = lambda: NOON
        time.monotonic = lambda: 0.0
        before()
        infifusion.commands.cli.main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        # At once: nothing of the parent's (its buffers, its exit handlers) is the child's.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
