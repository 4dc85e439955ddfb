"""Run generated Python without trusting it.

The promise, enforced by the kernel (rlimits, Landlock, seccomp, no_new_privs), without root and
without packages: the program cannot write a file, read one outside Python's own library and NumPy,
open a socket, start a process or a thread, signal another process, or use more than its share of
time and memory. Its environment is empty, its output goes nowhere, and it is killed when its time
is over. Where the kernel cannot enforce this, nothing runs (SandboxError) unless the user says so.
Where bubblewrap is installed and works, all this happens inside its namespaces besides.

A program passes only when its test ran to the end, in a process of its own, and that process
answered with this run's nonce, which the program's process never had: leaving with exit status 0
proves nothing, and neither frames, patched builtins nor searched memory lead to the test. Plain
values alone go between the two (peer.py): an object that equals everything equals nothing.
A test cannot see what a program prints, its source, or names made after its top level has run.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
import math
import platform
import secrets
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from infifusion.errors import SandboxError
from infifusion.sandbox import walls
from infifusion.sandbox.host import ask
from infifusion.sandbox.seccomp import seccomp_filter

TIMEOUT = 10.0  # seconds of wall clock; HumanEval's reference solutions need well under one
MEMORY = 1 << 30  # bytes of address space
PROBE = """
import os, socket
for forbidden in (
    lambda: open("/etc/passwd"),
    lambda: open("written-by-the-probe", "w"),
    lambda: socket.socket(),
    lambda: os.fork(),
    lambda: os.kill(os.getppid(), 0),
):
    try:
        forbidden()
    except PermissionError:
        continue
    raise SystemExit("not enforced")
"""


@dataclass(frozen=True)
class Verdict:
    """Whether the test ran to its end, and if not, why."""

    passed: bool
    reason: str


def check_program(
    program: str, test: str, *, timeout: float = TIMEOUT, unsafe_code: bool = False
) -> Verdict:
    """Run `program`, then `test` in the same namespace; passed when neither raises.

    `timeout` is wall-clock seconds for both. Raises SandboxError when the kernel cannot enforce
    the sandbox and `unsafe_code` is False; with it, only limits of time and memory hold.
    """
    if not unsafe_code:
        require_sandbox()
    return _run(program, test, timeout=timeout, enforce=not unsafe_code)


def require_sandbox() -> None:
    """Raise SandboxError, with what to do, unless the sandbox is enforced here."""
    enforceable, reason = available()
    if not enforceable:
        raise SandboxError(
            f"Generated code cannot be sandboxed here: {reason}. Expected Linux 5.13 or later "
            "with Landlock and seccomp, on x86_64 or aarch64. Evaluate code tasks on such a "
            "machine, or pass --unsafe-code (in a recipe: unsafe_code: true) to run generated code "
            "unprotected."
        )


@functools.cache
def available() -> tuple[bool, str]:
    """Whether the sandbox is enforced here, found out by trying what it must forbid."""
    if sys.platform != "linux":
        return False, f"{sys.platform} has neither Landlock nor seccomp"
    try:
        verdict = _run(PROBE, "", timeout=30.0, enforce=True)
    except SandboxError as error:
        return False, str(error)
    return verdict.passed, verdict.reason


@functools.cache
def bubblewrap() -> tuple[str, ...]:
    """The command that puts a program into namespaces of its own; nothing where it fails.

    It is a second wall: without network, other processes or a writable file system even if the
    first one had a hole. Some containers forbid it, so that it is tried once.
    """
    path = shutil.which("bwrap")
    if path is None:
        return ()
    command = (path, "--unshare-all", "--ro-bind", "/", "/")
    try:
        tried = subprocess.run(
            [*command, sys.executable, "-I", "-S", "-c", ""],
            capture_output=True,
            env={},
            timeout=30.0,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return command if tried.returncode == 0 else ()


def _run(program: str, test: str, *, timeout: float, enforce: bool) -> Verdict:
    nonce = secrets.token_hex(16).encode()
    payload = _payload(program, test, nonce, timeout=timeout, enforce=enforce)
    answer = ask(payload, timeout=timeout, outer=bubblewrap() if enforce else ())
    if answer.late:
        return Verdict(False, f"timeout: more than {timeout:g} s")
    if answer.kind == b"P" and secrets.compare_digest(answer.said, nonce):
        return Verdict(True, "passed")
    said = answer.said.decode("utf-8", "replace")
    if answer.kind == b"R":
        raise SandboxError(f"The kernel does not enforce the sandbox: {said}")
    if answer.kind == b"E":
        raise SandboxError(
            f"No process could be started for generated code: {said}. Free memory or processes, "
            "and run the same command again."
        )
    if answer.kind == b"F":
        return Verdict(False, said)
    return Verdict(False, "ended without a verdict (it left, crashed or was killed)")


def _payload(program: str, test: str, nonce: bytes, *, timeout: float, enforce: bool) -> bytes:
    """What child.py judges."""
    judged = {
        "program": program.encode("utf-8", "replace"),
        "test": test.encode("utf-8", "replace"),
        "nonce": nonce,
        "enforce": enforce,
        "limits": {
            "RLIMIT_CPU": math.ceil(timeout) + 1,
            "RLIMIT_AS": MEMORY,
            "RLIMIT_FSIZE": 0,
            "RLIMIT_NOFILE": 32,
            "RLIMIT_CORE": 0,
        },
        "readable": _readable(),
        "numpy": numpy_folder(),
        "seccomp": seccomp_filter(platform.machine()) if enforce else b"",
    }
    return marshal.dumps(judged)


@functools.cache
def _readable() -> list[str]:
    """What Python itself reads: its standard library, shared libraries, randomness; and NumPy."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    paths |= {sysconfig.get_config_var("DESTSHARED"), *walls.LIBRARIES}
    numpy = numpy_folder()
    paths |= {numpy, f"{numpy}.libs"} if numpy else set()
    return sorted(str(path) for path in paths if path)


@functools.cache
def numpy_folder() -> str:
    """Where NumPy is installed: the one package that programs and tests may import."""
    spec = importlib.util.find_spec("numpy")
    return str(Path(spec.origin).parent) if spec and spec.origin else ""
