"""Forks a fresh process for everything that is judged. Started by host.py: python -I -S.

Python and the imports take some 30 ms, a fork two. This process never runs generated code, reads
none and knows no nonce: both go through pipes that the fork alone holds open. Its orders come
through the socket that is its standard input: `+`, a number, the length of a path (8 and 2 bytes)
and the path of a folder, with two descriptors (what is to be judged, the verdict), start a process
of that number there; `-` and the number end it. It leaves, and takes what still runs with it, when
the other end is closed.
"""

# What programs often import is imported once, here; without a state that forks would share.
import collections  # noqa: F401
import contextlib
import functools  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import math  # noqa: F401
import os
import re  # noqa: F401
import signal
import socket
import string  # noqa: F401
import sys
import typing  # noqa: F401

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, FOLDER)  # python -I leaves it out; taken away again at once
import child  # noqa: E402  # pyright: ignore[reportMissingImports]

sys.path.remove(FOLDER)

HEAD = 11  # bytes: `+` or `-`, the number, the length of the path


def main() -> None:
    """Take orders until their other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # `end` needs them to stay until it has waited
    orders = socket.socket(fileno=os.dup(0))
    running: dict[bytes, int] = {}
    try:
        while True:
            head, descriptors, _, _ = socket.recv_fds(orders, HEAD, 2)
            kind, number = head[:1], head[1:9]
            if kind == b"+":
                folder = orders.recv(int.from_bytes(head[9:], "big"), socket.MSG_WAITALL)
                running[number] = begin(orders, folder, *descriptors)
            elif kind == b"-":
                if number in running:
                    end(running.pop(number))
            else:
                break
    finally:
        for process in running.values():
            end(process)


def begin(orders: socket.socket, folder: bytes, payload: int, verdict: int) -> int:
    """The number of the fork, 0 where there can be none, which is then said. In the fork, never
    returns."""
    starter = os.getpid()
    try:
        process = os.fork()
    except OSError as error:
        say(verdict, error)
        process = 0
    else:
        if process == 0:
            try:
                os.setsid()
                orders.close()
                os.chdir(folder)
                os.dup2(payload, 0)
                os.close(payload)
                child.walls.die_with_parent()
                if os.getppid() == starter:
                    child.judge(verdict)
            except OSError as error:
                say(verdict, error)
            finally:
                os._exit(1)
    os.close(payload)
    os.close(verdict)
    return process


def say(verdict: int, error: OSError) -> None:
    """That nothing could be judged; nobody may be there to hear it."""
    with contextlib.suppress(OSError):
        os.write(verdict, child.answer(b"E" + str(error).encode()))


def end(process: int) -> None:
    """Kill it and, where it could start any (unsafe_code), the processes it started."""
    if process == 0:
        return
    for kill in (os.killpg, os.kill):  # it may not be of its own group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


main()
