"""Two processes share a run; one of them is killed."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from launcher import Child, start
from trees import differences
from world import Count, World

WITHIN = 60.0  # seconds; the other has stopped by then


def one_of_two(
    world: World, kind: str, *, faults: int, seed: int, enough: Callable[[], bool]
) -> Count:
    """SIGKILL to one of two processes at a random moment. No launcher looks after them: the other
    finds out by itself. What both make after a restart is what two make undisturbed."""
    count = Count(kind)
    draw = random.Random(f"{kind} {seed}")
    begin = time.monotonic()
    ends = [child.wait() for child in _pair(world)]
    seconds = time.monotonic() - begin
    if any(ends):
        raise RuntimeError(f"two undisturbed processes ended with {ends}: {_said(world)}")
    expected = world.folder / "expected-by-two"
    world.run.rename(expected)
    for _ in range(20 * faults):
        if count.injected == faults or (count.injected and enough()):
            break
        pair = _pair(world)
        time.sleep(draw.uniform(0.0, seconds))
        victim = draw.randrange(2)
        where = world.stage()
        if any(child.poll() is not None for child in pair) or not (world.run / ".lock-1").exists():
            for child in pair:  # before both have begun, or when one is done
                child.send(signal.SIGKILL)
                child.wait()
            world.clear()
            continue
        pair[victim].send(signal.SIGKILL)
        begin = time.monotonic()
        pair[victim].wait()
        status = pair[1 - victim].wait()
        problems = _wrong_end(victim, status, pair[1 - victim].words(), time.monotonic() - begin)
        ends = [child.wait() for child in _pair(world)]
        problems += [f"the restart ended with {ends}: {_said(world)}"] if any(ends) else []
        problems += differences(expected, world.run) if not any(ends) else []
        world.clear()
        count.where[where] += 1
        count.end(1, problems)
    return count


def _wrong_end(victim: int, status: int, said: str, seconds: float) -> list[str]:
    problems = []
    if seconds > WITHIN:
        problems.append(f"the other stopped after {seconds:.0f} s")
    if status == 0:
        return problems  # it had nothing more to wait for
    if status != 1 or "Traceback" in said:
        problems.append(f"the other ended with {status}: {said[-3000:]}")
    if f"Process {victim} of 2" not in said:
        problems.append(f"the other does not say why: {said[-2000:]}")
    return problems


def _pair(world: World) -> list[Child]:
    """Two processes as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    arguments = ["run", str(world.recipe), "--run-dir", str(world.run)]
    return [
        start(
            arguments,
            _file(world, number),
            environment={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(2)
    ]


def _file(world: World, number: int) -> Path:
    return world.folder / f"said-{number}.txt"


def _said(world: World) -> str:
    return "".join(_file(world, n).read_text(errors="replace")[-2000:] for n in range(2))
