"""The command line, called in this process, and what a refusal must look like."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from infifusion.commands.cli import main


@dataclass(frozen=True)
class Answer:
    """What the command line gave back."""

    status: int
    printed: str
    said: str


def infifusion(*arguments: object) -> Answer:
    """Call the command line. Whatever is not one of our errors comes through."""
    words = [str(argument) for argument in arguments]
    printed, said = io.StringIO(), io.StringIO()
    status = 0
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
        patch.object(sys, "argv", ["infifusion", *words]),
        _as_before(),
    ):
        try:
            main()
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
    return Answer(status, printed.getvalue(), said.getvalue())


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Logging and signal handlers are what they were when the block ends."""
    log = logging.getLogger("infifusion")
    before = log.handlers, log.propagate, log.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        log.handlers, log.propagate = before[0], before[1]
        log.setLevel(before[2])
        for number, handler in signals.items():
            signal.signal(number, handler)


def assert_refused(*arguments: object, says: str | list[str], untouched: Path | None) -> None:
    """Exit status 2, one message in which every regular expression of `says` is found (blanks and
    line breaks are alike), no traceback, and no file at or under `untouched`."""
    answer = infifusion(*arguments)
    assert answer.status == 2, answer
    assert answer.printed == "", "a refusal prints no result"
    assert answer.said.count("Error: ") == 1, answer.said
    assert "Traceback" not in answer.said
    message = " ".join(answer.said.partition("Error: ")[2].split())
    own = not answer.said.startswith("Usage: ")  # typer's own end without a full stop
    assert len(message) < 20_000 and (not own or message.endswith((".", "?"))), message
    for pattern in [says] if isinstance(says, str) else says:
        assert re.search(pattern, message), f"{pattern!r} is not in {message!r}"
    if untouched is not None:
        left = [path for path in (untouched, *untouched.rglob("*")) if path.is_file()]
        assert not left, left
