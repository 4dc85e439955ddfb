"""Progress of one piece of work: units done, rates, losses."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

WINDOW = 60
"""Samples that a rate is taken over, a second or more apart: the last minute, not the warm-up."""
CURVE = 120
"""Points of a loss curve, at most: twice what a terminal line shows."""


@dataclass
class Curve:
    """A loss curve of less than CURVE points: where it is full, two points become their mean."""

    points: list[float] = field(default_factory=list)
    stride: int = 1
    waiting: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Append a value."""
        self.waiting.append(value)
        if len(self.waiting) < self.stride:
            return
        self.points.append(float(f"{sum(self.waiting) / len(self.waiting):.5g}"))
        self.waiting = []
        if len(self.points) == CURVE:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(a + b) / 2 for a, b in pairs]
            self.stride *= 2


class Meter:
    """Progress of one piece of work; the working thread advances it, another one may read it.

    done of total are in `unit`s. tokens: those that a training step took, padding included, where
    the unit is another one. cut_off: answers that ran out of
    tokens, where it is known. note: whatever else is to be seen beside it, in words.
    """

    def __init__(self, title: str, total: int, unit: str = "") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.tokens = 0
        self.cut_off: int | None = None
        self.note = ""
        self.curve = Curve()
        self.loss: float | None = None
        self.start_from(0)

    def start_from(self, done: int) -> None:
        """Count from `done`: what was done before does not count for the rates."""
        self.done = done
        self.began = time.monotonic()
        # At once, and never empty: another thread may ask for the rates just now.
        self._samples = deque([(self.began, done, self.tokens)], maxlen=WINDOW)

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """Set how many units are done."""
        self.done = done
        now = time.monotonic()
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, done, self.tokens))

    def end(self) -> None:
        """The work is done, whatever was left out of the total."""
        self.done = max(self.done, self.total)

    def lose(self, loss: float) -> None:
        """Record the loss of the last logged step."""
        self.loss = loss
        self.curve.add(loss)

    def rates(self) -> tuple[float | None, float | None]:
        """Units and tokens per second over the last samples; None before there is one."""
        then, done, tokens = self._samples[0]
        seconds = time.monotonic() - then
        if seconds <= 0:
            return None, None
        per_second = (self.done - done) / seconds if self.done > done else None
        if self.unit == "tokens":
            return per_second, per_second
        return per_second, (self.tokens - tokens) / seconds if self.tokens > tokens else None


@dataclass(frozen=True)
class Work:
    """A meter at one moment. seconds: since it began; rates are None before there is one."""

    title: str
    done: int
    total: int
    unit: str
    seconds: float
    per_second: float | None
    tokens_per_second: float | None
    loss: float | None
    curve: list[float]
    cut_off: int | None = None
    note: str = ""

    @classmethod
    def of(cls, meter: Meter) -> Work:
        """The state of a meter at this moment."""
        rate, tokens = meter.rates()
        return cls(
            *(meter.title, meter.done, meter.total, meter.unit),
            *(time.monotonic() - meter.began, rate, tokens, meter.loss, list(meter.curve.points)),
            *(meter.cut_off, meter.note),
        )

    @property
    def share(self) -> float:
        """The part that is done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def left(self) -> float | None:
        """Seconds to the end at the rate of the last minute; None while no rate is known."""
        return (self.total - self.done) / self.per_second if self.per_second else None


shown_by: list[Callable[[Meter], AbstractContextManager[None]]] = []
"""How the run that is followed in this process, if any, shows a meter while a block works; without
one a meter has a bar of its own."""


def duration(seconds: float | None) -> str:
    """Seconds as 12.3 s, 4 min 05 s or 2 h 03 min."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
