"""Forks a fresh process for everything that is judged. Started by sandbox_host.py: python -I -S.

Python and the imports take some 30 ms, a fork two. This process never runs generated code, reads
none and knows no nonce: both go through pipes that the fork alone holds open. Its orders are 9
bytes on a socket: `+` and a number, with three descriptors (what is to be judged, the verdict, the
folder), start a process of that number; `-` and the number end it. It leaves, and takes what still
runs with it, when the other end is closed.
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
import sandbox_child as child  # noqa: E402  # pyright: ignore[reportMissingImports]

sys.path.remove(FOLDER)


def main() -> None:
    host = socket.socket(fileno=int(sys.argv[1]))
    running: dict[bytes, int] = {}
    while True:
        order, descriptors, _, _ = socket.recv_fds(host, 9, 3)
        number = order[1:]
        if order[:1] == b"+":
            try:
                process = os.fork()
                if process == 0:
                    begin(host, *descriptors)
                running[number] = process
            except OSError as error:
                os.write(descriptors[1], child.answer(b"E" + str(error).encode()))
            for descriptor in descriptors:
                os.close(descriptor)
        elif order[:1] == b"-":
            if number in running:
                end(running.pop(number))
        else:
            break
    for process in running.values():
        end(process)


def begin(host: socket.socket, payload: int, verdict: int, folder: int) -> None:
    """In the fork. Never returns."""
    try:
        os.setsid()
        host.close()
        os.fchdir(folder)
        os.close(folder)
        os.dup2(payload, 0)
        os.close(payload)
        child.judge(verdict)
    except OSError as error:
        os.write(verdict, child.answer(b"E" + str(error).encode()))
    finally:
        os._exit(1)


def end(process: int) -> None:
    """Kill it and, where it could start any (unsafe_code), the processes it started."""
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError):  # not of its own group yet
            kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


main()
