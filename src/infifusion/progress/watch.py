"""Follow a run from its folder alone: on a terminal a frame a second, else a line when it moves."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import psutil
from rich.console import Console, RenderableType
from rich.live import Live

from infifusion.process.bar import figures
from infifusion.process.meter import duration
from infifusion.progress.state import RunState, Status, read_state
from infifusion.progress.view import stage_words, watch_view

LOOK_EVERY = 1.0
SAY_EVERY = 10.0
"""Seconds between lines where there is no terminal."""
SILENT = 30.0
"""Seconds without a sign of life after which a run is said to be silent; it gives one a second."""


class LastSign:
    """The age of the last update of progress.json.

    The clock of another machine may be wrong, so once a sign was seen to come, its age is counted
    by the clock here; before, by the time that it carries.
    """

    def __init__(self) -> None:
        self._updated: float | None = None
        self._seen: float | None = None

    def age(self, state: RunState) -> float:
        """The age in seconds; call it once per reading of the file."""
        if self._updated is not None and state.updated != self._updated:
            self._seen = time.monotonic()
        self._updated = state.updated
        if self._seen is not None:
            return time.monotonic() - self._seen
        return max(0.0, time.time() - state.updated)


def watch_run(folder: Path, *, once: bool) -> None:
    """Show progress.json until the run is over; with `once`, as it is now.

    Raises ArtifactError where the folder holds none.
    """
    console, sign = Console(), LastSign()
    state = read_state(folder)
    if once or is_over(state) or not console.is_terminal:
        console.print(_frame(state, sign, console))
        if not once:
            _say_until_over(folder, state, sign, console)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_frame(state, sign, console), refresh=True)
            if is_over(state):
                return
            time.sleep(LOOK_EVERY)
            state = read_state(folder)


def _frame(state: RunState, sign: LastSign, console: Console) -> RenderableType:
    return watch_view(state, life=sign_of_life(state, sign.age(state)), width=console.width)


def _say_until_over(folder: Path, state: RunState, sign: LastSign, console: Console) -> None:
    while not is_over(state):
        time.sleep(SAY_EVERY)
        state = read_state(folder)
        work = f" ({figures(state.work)})" if state.work is not None else ""
        words = sign_of_life(state, sign.age(state))
        console.print(f"{stage_words(state)}{work}; {words}", markup=False, soft_wrap=True)


def is_over(state: RunState) -> bool:
    """Whether the run ended, or its process on this machine is gone."""
    return state.status != Status.RUNNING or is_gone(state)


def is_gone(state: RunState) -> bool:
    """Whether its process is known to have ended. Of another machine nothing is known."""
    if state.status != Status.RUNNING or state.machine != socket.gethostname():
        return False
    return not psutil.pid_exists(state.pid)


def sign_of_life(state: RunState, age: float) -> str:
    """One sentence: process, machine, age of the last update, and what to do where it is old."""
    who = f"process {state.pid} on {state.machine}"
    if state.status != Status.RUNNING:
        return f"The run ended {duration(age)} ago ({who})."
    said = f"Last sign of life {duration(age)} ago ({who})"
    if is_gone(state):
        return f"{said}; it is no more: killed. Run the same command again: it goes on."
    still = state.updated - state.moved
    if age > SILENT:
        return f"{said}; it gives one a second: see to that machine, and whether the folder is up."
    return f"{said}." if still < SILENT else f"{said}; at the same place for {duration(still)}."
