"""The process that sandboxes are forked from, as this process sees it: started once, used by every
thread, started anew where it was killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import count
from pathlib import Path

from infifusion.errors import SandboxError

STARTER = Path(__file__).with_name("starter.py")
PIECE = 4096  # bytes read at once from the verdict pipe; an answer is at most 64 KiB
TRIES = 2
HUNG = 10.0  # seconds in which the starter takes an order or ends a child, or is killed itself
GRACE = 0.05  # seconds from the end of a child to the end of the starter that brought it about


@dataclass(frozen=True)
class Answer:
    """kind: a letter of child.py; nothing where the child left without an answer."""

    kind: bytes
    said: bytes
    late: bool = False


def ask(payload: bytes, *, timeout: float, outer: tuple[str, ...]) -> Answer:
    """What a fresh child says to the payload within `timeout` seconds. It runs in an empty folder,
    is killed afterwards, and leaves nothing behind. `outer`: a command around the starter.

    Asks again where the starter was killed meanwhile, as the system does when memory runs out.
    Raises SandboxError where there are no descriptors, folders or processes to be had.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix="infifusion-sandbox-", ignore_cleanup_errors=True
        ) as folder:
            tries = TRIES
            while True:
                host = _host(outer)
                answer = host.ask(payload, folder, timeout)
                tries -= 1
                if answer.kind or answer.late or host.runs(GRACE) or not tries:
                    return answer
    except OSError as error:
        raise SandboxError(
            f"Generated code could not be run: {error}. Free what it names (memory, processes, "
            "open files, the disk of the temporary folder), and run the same command again."
        ) from error


_numbers = count()
"""Of the children of all hosts: an order that reaches the wrong one does nothing."""


class Host:
    """One starter, and the socket with its orders."""

    def __init__(self, outer: tuple[str, ...]) -> None:
        self._orders, theirs = socket.socketpair()
        self._orders.settimeout(HUNG)
        self._sending = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [*outer, sys.executable, "-I", "-S", str(STARTER)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )

    def runs(self, grace: float = 0.0) -> bool:
        """Whether the starter is there; one that was killed just now is seen within `grace`."""
        ended = _ready(self._orders, select.POLLIN, time.monotonic() + grace)  # it sends nothing
        return not ended and self._process.poll() is None

    def close(self) -> None:
        """The starter leaves when its orders end; whatever holds it up is killed."""
        with contextlib.suppress(OSError):
            self._orders.shutdown(socket.SHUT_RDWR)  # in forks of this process, too
        self._orders.close()
        try:
            self._process.wait(HUNG)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a fork of this process: the starter is not its own."""
        self._orders.close()
        self._process.returncode = 0

    def ask(self, payload: bytes, folder: str, timeout: float) -> Answer:
        """What a child of this starter says; see `ask` of the module."""
        deadline = time.monotonic() + timeout
        number, place = next(_numbers).to_bytes(8, "big"), os.fsencode(folder)
        with _pipe() as (taken, feeding), _pipe() as (reading, verdict):
            try:
                order = b"+" + number + len(place).to_bytes(2, "big") + place
                self._order(order, taken.fileno(), verdict.fileno())
                taken.close()
                verdict.close()
                fed = _feed(feeding, payload, deadline)
                return _read(reading, deadline) if fed else Answer(b"", b"", late=True)
            finally:
                taken.close()
                verdict.close()
                self._end(number, reading)

    def _end(self, number: bytes, reading: FileIO) -> None:
        """Kill the child and wait until it is gone, which ends its verdict."""
        self._order(b"-" + number + bytes(2))
        deadline = time.monotonic() + HUNG
        while _ready(reading, select.POLLIN, deadline) and reading.read(PIECE):
            pass

    def _order(self, order: bytes, *descriptors: int) -> None:
        """Where the starter is gone, so is what it should do: the verdict stays empty."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            try:
                socket.send_fds(self._orders, [order], descriptors)
            except TimeoutError:
                self._process.kill()


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """The ends to read and to write."""
    reading, writing = os.pipe()
    with FileIO(reading, "r") as read_end, FileIO(writing, "w") as write_end:
        yield read_end, write_end


def _feed(feeding: FileIO, payload: bytes, deadline: float) -> bool:
    """Whether the payload was taken in time, or nobody is there to take it."""
    os.set_blocking(feeding.fileno(), False)
    left = memoryview(payload)
    with contextlib.suppress(BrokenPipeError):
        while left:
            if not _ready(feeding, select.POLLOUT, deadline):
                return False
            left = left[feeding.write(left) or 0 :]
    return True


def _read(reading: FileIO, deadline: float) -> Answer:
    """One answer, as far as it came; late where the rest was."""
    data = b""
    while len(data) < 2 + int.from_bytes(data[:2], "big"):
        if not _ready(reading, select.POLLIN, deadline):
            return Answer(b"", b"", late=True)
        piece = reading.read(PIECE)
        if not piece:
            break
        data += piece
    return Answer(data[2:3], data[3:])


def _ready(end: FileIO | socket.socket, event: int, deadline: float) -> bool:
    """Whether there is something to read, or room to write, or an end, before the deadline."""
    asked = select.poll()
    asked.register(end, event)
    return bool(asked.poll(max(0.0, deadline - time.monotonic()) * 1000))


_hosts: dict[tuple[str, ...], Host] = {}
_choosing = threading.Lock()


def _host(outer: tuple[str, ...]) -> Host:
    """This process's starter with that command around it."""
    with _choosing:
        if outer in _hosts and not _hosts[outer].runs():
            _hosts.pop(outer).close()
        if outer not in _hosts:
            _hosts[outer] = Host(outer)
        return _hosts[outer]


@atexit.register
def close_hosts() -> None:
    """End the starters of this process."""
    with _choosing:
        while _hosts:
            _hosts.popitem()[1].close()


def _begin_anew() -> None:
    """In a fork of this process, whatever its other threads were doing."""
    global _choosing
    _choosing = threading.Lock()
    while _hosts:
        _hosts.popitem()[1].forget()


os.register_at_fork(after_in_child=_begin_anew)
