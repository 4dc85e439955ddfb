"""What is said of work in progress where there is no terminal."""

from __future__ import annotations

import logging
import time

import pytest

from infifusion.process import bar
from infifusion.process.meter import Meter, Work
from infifusion.process.runtime import log


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch):
    """The lines that are logged, the first after 0.05 s."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, level = Kept(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    monkeypatch.setattr(bar, "FIRST_LINE", 0.05)
    monkeypatch.setattr(bar, "NEXT_LINE", 0.05)
    monkeypatch.setattr(bar, "shows_live", lambda: False)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


def test_long_work_says_how_far_it_is_and_short_work_says_nothing(said: list[str]) -> None:
    with bar.progress_bar("short", 3, "answers") as meter:
        meter.advance(3)
    assert said == []
    with bar.progress_bar("gsm8k: generate", 8, "answers") as meter:
        meter.cut_off = 0
        for cut_off in (1, 0):
            time.sleep(0.1)
            meter.tokens += 300
            meter.cut_off += cut_off
            meter.advance(4)
    assert len(said) >= 2 and all(line.startswith("gsm8k: generate: ") for line in said)
    assert said[-1].startswith("gsm8k: generate: 8/8 answers, 100 %, ")
    assert "tokens/s" in said[-1] and said[-1].endswith("12 % cut off")
    half = [line for line in said if "4/8 answers, 50 %" in line]
    assert half and "25 % cut off" in half[0] and half[0].endswith(" left")


def test_work_that_fails_at_once_says_nothing(said: list[str]) -> None:
    with pytest.raises(ValueError, match="stop"), bar.progress_bar("work", 2, "answers"):
        raise ValueError("stop")
    assert said == []


def test_tokens_are_counted_before_the_first_answer_is_done() -> None:
    meter = Meter("generate", 4, "answers")
    meter.tokens = 500
    time.sleep(0.01)
    work = Work.of(meter)
    assert work.per_second is None and work.left is None
    assert work.tokens_per_second is not None and work.tokens_per_second > 100
    assert "cut off" not in bar.figures(work), "where nothing is known of it"


def test_what_else_is_to_be_seen_stands_behind_the_figures() -> None:
    meter = Meter("distill own", 4, "steps")
    assert bar.figures(Work.of(meter)) == "0/4 steps, 0 %"
    meter.note = "round 3: 20 tokens an answer"
    assert bar.figures(Work.of(meter)) == "0/4 steps, 0 %, round 3: 20 tokens an answer"
