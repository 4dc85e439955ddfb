"""The process that sandboxes are forked from, as this process sees it: started once, used by every
thread, started anew where it was killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from select import select

STARTER = Path(__file__).with_name("sandbox_starter.py")
PIECE = 4096  # bytes read at once from the verdict pipe; an answer is at most 64 KiB
TRIES = 2


@dataclass(frozen=True)
class Answer:
    """kind: a letter of sandbox_child.py; nothing where the child left without an answer."""

    kind: bytes
    said: bytes
    late: bool = False


def ask(payload: bytes, *, timeout: float, outer: tuple[str, ...]) -> Answer:
    """What a fresh child says to the payload within `timeout` seconds. It runs in an empty folder,
    is killed afterwards, and leaves nothing behind. `outer`: a command around the starter.

    Asks again where the starter was killed meanwhile, as the system does when memory runs out.
    """
    with tempfile.TemporaryDirectory(
        prefix="infifusion-sandbox-", ignore_cleanup_errors=True
    ) as folder:
        tries = TRIES
        while True:
            host = _host(outer)
            answer = host.ask(payload, folder, timeout)
            tries -= 1
            if answer.kind or answer.late or host.runs() or not tries:
                return answer


class Host:
    """One starter, and the socket with its orders."""

    def __init__(self, outer: tuple[str, ...]) -> None:
        self._orders, theirs = socket.socketpair()
        self._numbers, self._sending = count(), threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [*outer, sys.executable, "-I", "-S", str(STARTER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def runs(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """The starter leaves when its orders end; whatever holds it up is killed."""
        self._orders.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, payload: bytes, folder: str, timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        with self._child(folder) as (feeding, reading):
            # A child that is gone, or a starter, leaves no answer.
            with contextlib.suppress(BrokenPipeError), open(feeding, "wb") as feed:
                feed.write(payload)
            return _read(reading, deadline)

    @contextlib.contextmanager
    def _child(self, folder: str) -> Iterator[tuple[int, int]]:
        """Descriptors to write what is to be judged (closed by the caller) and read the verdict."""
        number = next(self._numbers).to_bytes(8, "big")
        payload, feeding = os.pipe()
        reading, verdict = os.pipe()
        theirs = (payload, verdict, os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        try:
            self._order(b"+" + number, theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        try:
            yield feeding, reading
        finally:
            os.close(reading)
            self._order(b"-" + number)

    def _order(self, order: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Where the starter is gone, so is what it should do: the verdict pipe is empty."""
        with self._sending, contextlib.suppress(OSError):
            socket.send_fds(self._orders, [order], descriptors)


def _read(reading: int, deadline: float) -> Answer:
    """One answer, as far as it came; late where the rest was."""
    data = b""
    while len(data) < 2 + int.from_bytes(data[:2], "big"):
        left = deadline - time.monotonic()
        if left <= 0 or not select([reading], [], [], left)[0]:
            return Answer(b"", b"", late=True)
        piece = os.read(reading, PIECE)
        if not piece:
            break
        data += piece
    return Answer(data[2:3], data[3:])


_hosts: dict[tuple[int, tuple[str, ...]], Host] = {}
_choosing = threading.Lock()


def _host(outer: tuple[str, ...]) -> Host:
    """This process's starter with that command around it; a fork of this process has its own."""
    key = (os.getpid(), outer)
    with _choosing:
        if key in _hosts and not _hosts[key].runs():
            _hosts.pop(key).close()
        if key not in _hosts:
            _hosts[key] = Host(outer)
        return _hosts[key]


@atexit.register
def close_hosts() -> None:
    """End the starters of this process."""
    with _choosing:
        for key in [key for key in _hosts if key[0] == os.getpid()]:
            _hosts.pop(key).close()
