"""Disks that are full, limited, write-protected or gone, and a clock that goes backwards."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable

import launcher
from world import Count, World

SIZE = 64 << 20  # bytes of the small file system; a run takes about a tenth of it
Budget = Callable[[], bool]


def mount(world: World) -> bool:
    """A small file system at `world.run`; False where this machine does not allow one."""
    world.run.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(world.run)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(world: World) -> None:
    """Give it back, with what is in it."""
    subprocess.run(["umount", "-l", str(world.run)], check=True)


def full(world: World, kind: str, *, faults: int, seed: int, enough: Budget) -> Count:
    """The disk fills up at a random moment; space is made; the run goes on."""
    count = Count(kind)
    draw = random.Random(f"{kind} {seed}")
    while count.injected < faults and not (count.injected and enough()):
        if not mount(world):
            world.clear()
            count.where["this machine allows no mount"] += 1
            break
        child = world.start()
        time.sleep(draw.uniform(0.0, world.seconds))
        ballast = world.run / "ballast"
        where = world.stage()
        _fill(ballast)
        status = child.wait()
        ballast.unlink()
        problems = [] if status == 0 else _said_full(world, status)
        problems += _finish_mounted(world)
        if status:
            count.where[where] += 1
        if status or problems:
            count.end(1, problems)
    return count


def _fill(ballast: os.PathLike[str]) -> None:
    """Take what is free, to the last page."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            free = os.statvfs(ballast)
            size = os.fstat(descriptor).st_size
            step = max(free.f_bfree * free.f_bsize, free.f_bsize)
            try:
                os.posix_fallocate(descriptor, size, step)
            except OSError:
                if step == free.f_bsize:
                    return
    finally:
        os.close(descriptor)


def _said_full(world: World, status: int) -> list[str]:
    said = world.words()
    problems = [] if status == 1 else [f"ended with {status}: {said[-2000:]}"]
    if "Traceback" in said:
        problems.append(f"a traceback: {said[-2500:]}")
    for words in ("bytes; ", "bytes are free on the disk of", "run the same command again"):
        if words not in said:
            problems.append(f"does not say '{words}': {said[-1500:]}")
    if (world.run / "summary.json").exists() and (world.run / "report/index.html").exists():
        problems.append("looks finished")
    return problems


def _finish_mounted(world: World) -> list[str]:
    """As World.finish, on a mounted file system."""
    try:
        return world.finish(keep=True)
    finally:
        unmount(world)
        world.clear()


def limited(world: World, kind: str, *, faults: int, seed: int, enough: Budget) -> Count:
    """A file may not grow beyond a random size, as under a quota (RLIMIT_FSIZE)."""
    count = Count(kind)
    draw = random.Random(f"{kind} {seed}")
    sizes = sorted(path.stat().st_size for path in world.expected.rglob("*") if path.is_file())
    while count.injected < faults and not (count.injected and enough()):
        limit = draw.choice(sizes) - 1

        def before(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        status = world.start(before=before).wait()
        # Where not even the output may grow, nothing is said.
        problems = _said_full(world, status) if status and limit > 8000 else []
        where = world.stage()
        problems += world.finish()
        if status:
            count.where[where] += 1
            count.end(1, problems)
    return count


def read_only(world: World, kind: str, *, enough: Budget) -> Count:
    """The disk is write-protected when the run goes on, after each stage in turn."""
    count = Count(kind)
    for stage in ("prepare", "teach", "fuse", "distill", "merge", "evaluate"):
        if enough() or not mount(world):
            world.clear()
            break
        remount = ["mount", "-o", "remount,ro", str(world.run)]
        problems = [] if world.start("--until", stage).wait() == 0 else ["could not begin"]
        subprocess.run(remount, check=True)
        status = world.start().wait()
        said = world.words()
        if status != 1 or "Read-only file system" not in said or "Traceback" in said:
            problems.append(f"ended with {status}: {said[-2000:]}")
        subprocess.run([*remount[:2], "remount,rw", str(world.run)], check=True)
        count.where[stage] += 1
        count.end(1, [*problems, *_finish_mounted(world)])
    return count


def vanished(world: World, kind: str, *, faults: int, seed: int, enough: Budget) -> Count:
    """The run folder is moved away at a random moment, and brought back."""
    count = Count(kind)
    draw = random.Random(f"{kind} {seed}")
    away = world.run.with_name("away")
    while count.injected < faults and not (count.injected and enough()):
        child = world.start()
        time.sleep(draw.uniform(0.0, world.seconds))
        where = world.stage()
        if child.poll() is not None or not world.run.exists():
            child.wait()
            world.clear()
            continue
        world.run.rename(away)
        status = child.wait()
        said = world.words()
        problems = []
        if status == 0:  # the last write was done; a stage never ends so
            problems = ["ended as if nothing had happened"] if not _complete(away) else []
        elif status not in (1, 2) or "Traceback" in said:
            problems = [f"ended with {status}: {said[-2500:]}"]
        elif "vanished" not in said:
            problems = [f"does not say what happened: {said[-1500:]}"]
        world.clear()
        away.rename(world.run)
        count.where[where] += 1
        count.end(1, [*problems, *world.finish()])
    return count


def _complete(folder: os.PathLike[str]) -> bool:
    return os.path.exists(os.path.join(folder, "report", "index.html"))


def backwards(world: World, kind: str, *, faults: int, seed: int, enough: Budget) -> Count:
    """Killed at a random moment, and gone on with a clock that goes an hour back at each look."""
    count = Count(kind)
    draw = random.Random(f"{kind} {seed}")

    def before() -> None:
        hours = 0

        def look() -> float:
            nonlocal hours
            hours += 1
            return launcher.NOON - 3600.0 * hours

        time.time = look

    while count.injected < faults and not (count.injected and enough()):
        child = world.start(before=before)
        time.sleep(draw.uniform(0.0, world.seconds))
        where = world.stage()
        child.send(signal.SIGKILL)
        child.wait()
        status = world.start(before=before).wait()
        problems = [] if status == 0 else [f"ended with {status}: {world.words()[-2000:]}"]
        count.where[where] += 1
        count.end(1, [*problems, *world.finish()])
    return count
