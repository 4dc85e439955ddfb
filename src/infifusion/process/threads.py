"""How many threads to calculate with, where other jobs are at work on the same machine.

torch starts a thread per core, and at the end of every operation each waits for the slowest in a
loop that keeps its core busy. Where another job has some of the cores, the slowest is the one that
waits for its turn, and most of the time of the others goes into waiting: with two threads beside
a job of two on two cores a training step took ten times as long and more, with one thread twice.
"""

from __future__ import annotations

import os
import time

import psutil

from infifusion.process.runtime import log, world_size

LOOK = 0.3
"""Seconds that the other processes are looked at."""
SAID = "OMP_NUM_THREADS"
"""The variable by which a user says how many threads there are to be."""


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def busy_cores(seconds: float = LOOK) -> float:
    """How many of them others keep busy just now. What runs at a lower priority than normal gives
    way, and does not count."""
    own, began, before = psutil.Process().cpu_times(), time.monotonic(), psutil.cpu_times()
    time.sleep(seconds)
    after, passed = psutil.cpu_times(), time.monotonic() - began
    mine = psutil.Process().cpu_times()
    busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "system"))
    busy -= (mine.user - own.user) + (mine.system - own.system)
    share = cores() / (psutil.cpu_count() or 1)
    return max(0.0, min(float(cores()), share * busy / max(passed, 1e-3)))


def free_cores() -> int:
    """Cores that nobody else uses just now; one at least."""
    return max(1, round(cores() - busy_cores()))


def use_free_cores() -> None:
    """Let torch calculate with as many threads as there are free cores, and say so where that is
    fewer than it would take. The environment's OMP_NUM_THREADS decides otherwise; so does torchrun,
    which sets it."""
    import torch

    before = torch.get_num_threads()
    if before == 1 or SAID in os.environ or world_size() > 1:
        return
    free = free_cores()
    if free < before:
        torch.set_num_threads(free)
        log.info(
            "Other jobs are at work on this machine: %d of %d threads are used, one for each free "
            "core; more would wait for one another (%s=N decides otherwise).",
            free,
            before,
            SAID,
        )
