"""The bar of one piece of work on a terminal, and its figures in words."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from infifusion.process.meter import Meter, Work, duration, shown_by
from infifusion.process.runtime import console, log, rank, shows_live

Item = TypeVar("Item")
FIRST_LINE, NEXT_LINE = 10.0, 30.0
"""Seconds to the first line where there is no terminal, and between two."""


def figures(work: Work) -> str:
    """The figures of work: 312/700 steps, 45 %, 1,234 tokens/s, loss 0.513, 3 s left."""
    if not work.total:
        return "starting"
    unit = f" {work.unit}" if work.unit else ""
    said = [f"{work.done:,}/{work.total:,}{unit}", f"{100 * work.share:.0f} %"]
    if work.tokens_per_second is not None:
        said.append(f"{work.tokens_per_second:,.0f} tokens/s")
    elif work.per_second is not None:
        said.append(f"{work.per_second:,.3g} {work.unit or 'items'}/s")
    if work.loss is not None:
        said.append(f"loss {work.loss:.4g}")
    if work.cut_off is not None and work.done:
        said.append(f"{100 * work.cut_off / work.done:.0f} % cut off")
    if work.left is not None and work.done < work.total:
        said.append(f"{duration(work.left)} left")
    if work.note:
        said.append(work.note)
    return ", ".join(said)


def work_line(work: Work, *, width: int) -> RenderableType:
    """Title, bar and figures; the bar goes first where the terminal is narrow."""
    grid = Table.grid(padding=(0, 1))
    room = width - len(work.title) - len(figures(work)) - 4
    cells: list[RenderableType] = [Text(work.title, no_wrap=True)]
    if room >= 8:
        cells.append(
            ProgressBar(total=max(1, work.total), completed=work.done, width=min(40, room))
        )
    grid.add_row(*cells, Text(figures(work)))
    return grid


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str = "") -> Iterator[Meter]:
    """A meter for the work of the block: advance it by `.advance(n)`, from one thread at a time.

    A run that is followed (progress/follow.py) shows it; else it has a bar of its own on standard
    error, or a line now and then where that is no terminal.
    """
    meter = Meter(title, total, unit)
    if shown_by:
        with shown_by[-1](meter):
            yield meter
            meter.end()
    elif rank() == 0 and shows_live():

        def line() -> RenderableType:
            return work_line(Work.of(meter), width=console.width)

        with Live(get_renderable=line, console=console, transient=True):
            yield meter
            meter.end()
    elif rank() == 0 and multiprocessing.parent_process() is None:
        with _lines(meter):
            yield meter
            meter.end()
    else:
        yield meter


@contextlib.contextmanager
def _lines(meter: Meter) -> Iterator[None]:
    """Say how far a meter is, after a while and then every so often, and at its end."""
    over = threading.Event()

    def say() -> None:
        log.info("%s: %s", meter.title, figures(Work.of(meter)))

    def look() -> None:
        wait = FIRST_LINE
        while not over.wait(wait):
            say()
            wait = NEXT_LINE

    looks = threading.Thread(target=look, name="infifusion-lines", daemon=True)
    began = time.monotonic()
    looks.start()
    try:
        yield
    finally:
        over.set()
        looks.join()
        if time.monotonic() - began >= FIRST_LINE:
            say()


def track(items: Iterable[Item], title: str, total: int, unit: str = "") -> Iterator[Item]:
    """Iterate with a progress bar."""
    with progress_bar(title, total, unit) as meter:
        for item in items:
            yield item
            meter.advance()
