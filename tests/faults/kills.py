"""SIGKILL, loss of power, SIGTERM and Ctrl-C: at every named point, and at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from points import Points, watch
from world import Count, World

PER_FOLDER = 20
"""So many times a folder is disturbed before it is left to finish."""

SHARES = (0.1, 1.0)
"""Moments are drawn evenly over a share of what an undisturbed run takes, and each folder draws its
share: a short one stops the run again and again where it is, a long one lets it come further."""

KEPT = "Run the same command again"
Budget = Callable[[], bool]


def every_point(
    world: World, kind: str, *, power: bool, begin: str, until: str, enough: Budget
) -> Count:
    """Crawl: each process ends at the first point at which none has ended yet, the next goes on
    from what is left, until one comes through. The stages before `begin` are done beforehand, those
    after `until` undisturbed."""
    count = Count(kind)
    world.prepare_until(begin)
    told: set[str] = set()
    while not enough():
        reads, writes = os.pipe()

        def before(writes: int = writes) -> None:
            watch(Points(world.run, told, writes, power=power))

        child = world.start("--until", until, before=before)
        os.close(writes)
        status = child.wait()
        with os.fdopen(reads) as pipe:
            name = pipe.read().strip()
        if status == 0:
            break
        if status != -signal.SIGKILL or not name:
            last = max(told, default="", key=len)
            count.end(len(told), [f"a restart ended with {status}: {world.words()[-3000:]}", last])
            world.clear()
            return count
        told.add(name)
        count.where[_stage_of(name)] += 1
    count.end(len(told), world.finish())
    return count


def _stage_of(name: str) -> str:
    """The stage whose folder a point lies in; `run` for the run folder's own files."""
    folders = name.rpartition(" ")[0].split("/")
    return folders[0].split()[-1] if len(folders) > 1 else "run"


def random_moments(
    world: World, kind: str, *, number: int, faults: int, seed: int, enough: Budget
) -> Count:
    """The signal `number` at moments drawn evenly over what a run takes."""
    count = Count(kind)
    draw = random.Random(f"{kind} {seed}")
    while count.injected < faults and not (enough() and count.injected):
        hit, problems = 0, []
        longest = world.seconds * draw.uniform(*SHARES)
        for _ in range(min(PER_FOLDER, faults - count.injected)):
            if hit and enough():
                break
            child = world.start()
            time.sleep(draw.uniform(0.0, longest))
            if child.poll() is not None:
                break
            where = world.stage()
            child.send(number)
            status = child.wait()
            if status == 0:  # it came through before the signal did
                break
            hit += 1
            count.where[where] += 1
            problems += _wrong_end(number, status, world.words())
        count.end(hit, [*problems, *world.finish()])
    return count


def _wrong_end(number: int, status: int, said: str) -> list[str]:
    """What is wrong with how a process ended, and with what it said."""
    if number == signal.SIGKILL:
        return [] if status == -number else [f"ended with {status}"]
    problems = []
    if status != 128 + number:
        problems.append(f"ended with {status} in place of {128 + number}: {said[-1500:]}")
    if KEPT not in said:
        problems.append(f"does not say how to go on: {said[-1500:]}")
    if "Traceback" in said:
        problems.append(f"a traceback: {said[-3000:]}")
    return problems
