"""Follow a run: its live view or plain lines, RUN_DIR/progress.json and RUN_DIR/log.txt.

The thread that works only changes numbers (a Meter); a second one looks at them once a second. So
nothing here slows the run, and what goes wrong in showing it does not stop it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.live import Live

from infifusion.errors import ArtifactError
from infifusion.process.bar import figures
from infifusion.process.meter import Meter, Work, shown_by
from infifusion.process.redact import redact_text
from infifusion.process.runtime import console, log, rank, shows_live
from infifusion.progress.log_file import ONLY_HERE, log_file
from infifusion.progress.state import PROGRESS, RunState, Status, Step, read_state, write_state
from infifusion.progress.view import live_view

LOOK_EVERY = 1.0
SAY_EVERY = 60.0
"""Seconds between plain lines about work that goes on."""


@contextlib.contextmanager
def follow(folder: Path, *, name: str, steps: Sequence[str], command: str) -> Iterator[FollowedRun]:
    """Show and log a run while the block works; every step of it goes through `.step`.

    folder: the run's, held by this process. steps: their names, in order. Under torchrun the first
    process shows the run and writes progress.json; each has a log of its own.
    """
    followed = FollowedRun(folder, name, steps)
    with log_file(folder) as path:
        log.info("begin: %s (process %d on %s)", command, *_me(), extra=ONLY_HERE)
        try:
            with followed.shown():
                yield followed
        except BaseException as error:
            followed.ended(error)
            log.info("ended: %s", _in_words(error), exc_info=error, extra=ONLY_HERE)
            raise
        followed.ended(None)
        log.info("end; this log: %s", path, extra=ONLY_HERE)


class FollowedRun:
    """A run of this process: its state, its meters, the thread that shows them."""

    def __init__(self, folder: Path, name: str, steps: Sequence[str]) -> None:
        now = time.time()
        pid, machine = _me()
        known = _earlier(folder)
        self.state = RunState(
            name=name,
            machine=machine,
            pid=pid,
            started=now,
            updated=now,
            moved=now,
            steps=[known.get(step, Step(step)) for step in steps],
        )
        self._folder = folder
        self._meters: list[Meter] = []
        self._began: float | None = None
        self._before = 0.0
        self._over = threading.Event()
        live = rank() == 0 and shows_live()
        view = Live(get_renderable=self._view, console=console, transient=True)
        self._live = view if live else None

    @contextlib.contextmanager
    def step(self, name: str, *, made: bool) -> Iterator[None]:
        """Work on a step. made: it was finished by an earlier run and will be skipped."""
        number = next(n for n, step in enumerate(self.state.steps) if step.name == name)
        step = self.state.steps[number]
        step.status, self._before, self._began = Status.RUNNING, step.seconds, time.monotonic()
        self.state.current, self.state.moved = number, time.time()
        if rank() == 0 and not made:
            log.info("[%d/%d] %s", number + 1, len(self.state.steps), name)
        if self._live is not None:
            self._live.refresh()  # a step may end before the view draws itself again
        try:
            yield
        except Exception:
            step.status = Status.FAILED
            raise
        except BaseException:
            step.status = Status.STOPPED
            raise
        else:
            step.status = Status.DONE
        finally:
            step.seconds = self._before if made else self._seconds()
            self._began = None
        self.state.current, self.state.moved = None, time.time()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Seconds that the plan expects of each step; 0 for steps that it does not name."""
        for step in self.state.steps:
            step.expected = seconds.get(step.name, 0.0)

    @contextlib.contextmanager
    def showing(self, meter: Meter) -> Iterator[None]:
        """Show this meter while the block works; its loss curve stays with the step."""
        self._meters.append(meter)
        try:
            yield
        finally:
            self._meters.remove(meter)
            if self.state.step is not None and meter.curve.points:
                self.state.step.curve = list(meter.curve.points)

    def ended(self, error: BaseException | None) -> None:
        """Write how the run ended to progress.json."""
        self.state.message = "" if error is None else redact_text(_in_words(error))
        self.state.status = Status.DONE
        if error is not None:
            failed = isinstance(error, Exception)
            self.state.status = Status.FAILED if failed else Status.STOPPED
        self.state.work = None
        self._write()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Update the state every second while the block runs; on a terminal, show it."""
        shown_by.append(self.showing)
        looks = threading.Thread(target=self._look, name="infifusion-progress", daemon=True)
        with self._live or contextlib.nullcontext():
            looks.start()
            try:
                yield
            finally:
                self._over.set()
                looks.join()
                shown_by.pop()

    def _look(self) -> None:
        said, before = time.monotonic(), (-1, -1)
        while not self._over.wait(LOOK_EVERY):
            self._note()
            meter = self._meter()
            now = (id(meter), meter.done) if meter is not None else before
            if now != before:
                before, self.state.moved = now, time.time()
            self._write()
            if meter is not None and time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                quiet = self._live is not None or rank() != 0  # the first process speaks for all
                words = f"  {meter.title}: {figures(Work.of(meter))}"
                log.info("%s", words, extra=ONLY_HERE if quiet else None)

    def _meter(self) -> Meter | None:
        """The innermost meter; the working thread may change the list at any time."""
        return next(iter(self._meters[-1:]), None)

    def _note(self) -> None:
        """Bring the state up to date."""
        state, meter = self.state, self._meter()
        state.updated = time.time()
        state.work = None if meter is None else Work.of(meter)
        if state.step is not None and self._began is not None:
            state.step.seconds = self._seconds()
        with contextlib.suppress(OSError):
            state.disk_free = shutil.disk_usage(self._folder).free

    def _seconds(self) -> float:
        began = self._began
        return self._before + (0.0 if began is None else time.monotonic() - began)

    def _view(self) -> RenderableType:
        self._note()
        return live_view(self.state, width=console.width)

    def _write(self) -> None:
        if rank() == 0 and self._folder.exists():  # one that vanished is not made anew
            self.state.updated = time.time()
            with contextlib.suppress(OSError):  # a full disk stops the work itself, with a message
                write_state(self._folder, self.state)


def _earlier(folder: Path) -> dict[str, Step]:
    """Seconds and losses of steps that an earlier run of the same folder worked on."""
    if not (folder / PROGRESS).is_file():
        return {}
    try:
        steps = read_state(folder).steps
    except ArtifactError:
        return {}
    return {step.name: Step(step.name, seconds=step.seconds, curve=step.curve) for step in steps}


def _me() -> tuple[int, str]:
    return os.getpid(), socket.gethostname()


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
