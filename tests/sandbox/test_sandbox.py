import ctypes
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infifusion.errors import SandboxError
from infifusion.sandbox import host as sandbox_host
from infifusion.sandbox import programs as sandbox
from infifusion.sandbox.programs import available, bubblewrap, check_program

needs_sandbox = pytest.mark.skipif(not available()[0], reason=f"no sandbox: {available()[1]}")

FAILURES = {
    "leaves with status 0": ("import os\nos._exit(0)", "without a verdict"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "SystemExit"),
    "reads /etc/passwd": ("open('/etc/passwd').read()", "PermissionError"),
    "lists the root": ("import os\nos.listdir('/')", "PermissionError"),
    "reads a process": ("open('/proc/self/maps').read()", "PermissionError"),
    "writes here": ("open('x', 'w')", "PermissionError"),
    "writes outside": ("open('/tmp/infifusion-escaped', 'w')", "PermissionError"),
    "truncates a library": ("import os\nos.open(os.__file__, os.O_TRUNC)", "PermissionError"),
    "makes a folder": ("import os\nos.mkdir('d')", "PermissionError"),
    "removes a folder": ("import os\nos.rmdir(os.getcwd())", "PermissionError"),
    "opens a socket": ("import socket\nsocket.socket()", "PermissionError"),
    "opens a unix socket": ("import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
    "forks": ("import os\nwhile True: os.fork()", "PermissionError"),
    "executes": ("import os\nos.execv('/bin/sh', ['sh'])", "PermissionError"),
    "starts a process": ("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
    "starts a thread": ("import threading\nthreading.Thread(target=print).start()", "thread"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "loops": ("while True: pass", "timeout"),
    "sleeps": ("import time\ntime.sleep(60)", "timeout"),
    "takes all memory": ("x = [0] * 10**10", "MemoryError"),
    "takes 3 GiB": ("x = bytearray(3 << 30)", "MemoryError"),
    "opens 100 files": ("import os\nx = [open(os.__file__) for _ in range(100)]", "Too many"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "without a verdict"),
    "waits for input": ("input()", "Error"),
    "does not parse": ("def f(:", "SyntaxError"),
    "swallows the test": ("def f(): pass\n'''", "SyntaxError"),
    "floods the verdict": (
        "import os\nfor fd in range(3, 64):\n try:\n  while True: os.write(fd, b'P' * 65536)\n"
        " except OSError: pass",
        "without a verdict",
    ),
    "claims to have passed": (
        "import os\nfor fd in range(64):\n try: os.write(fd, b'P' + b'0' * 32)\n"
        " except OSError: pass\nos._exit(0)",
        "without a verdict",
    ),
    "raises what cannot be printed": (
        "class E(Exception):\n def __str__(self): raise E\nraise E",
        "cannot be printed",
    ),
}


@needs_sandbox
@pytest.mark.parametrize("name", FAILURES)
def test_a_bad_program_fails_and_harms_nothing(name):
    program, reason = FAILURES[name]
    started = time.monotonic()
    verdict = check_program(program, "", timeout=3.0)
    assert not verdict.passed
    assert reason in verdict.reason
    assert time.monotonic() - started < 10
    assert not Path("/tmp/infifusion-escaped").exists()


def test_the_sandbox_is_there_on_a_kernel_that_offers_it():
    """Otherwise a sandbox that is broken would only skip the tests below."""
    version = ctypes.CDLL(None).syscall(444, None, 0, 1)  # landlock_create_ruleset, its version
    known = platform.machine() in ("x86_64", "aarch64")
    if version < 1 or not known or not Path("/proc/sys/kernel/seccomp").exists():
        pytest.skip("the kernel has no Landlock or no seccomp")
    assert available() == (True, "passed")


@needs_sandbox
@pytest.mark.parametrize("with_bubblewrap", [False, True])
def test_bubblewrap_is_a_second_wall_where_it_works(with_bubblewrap, monkeypatch):
    if with_bubblewrap and not bubblewrap():
        pytest.skip("bubblewrap is not installed, or not allowed here")
    if not with_bubblewrap:
        monkeypatch.setattr(sandbox, "bubblewrap", tuple)
    sandbox_host.close_hosts()
    # In a new process namespace of its own a program has a small number.
    verdict = check_program("import os\nraise ValueError(os.getpid())", "")
    assert (int(verdict.reason.removeprefix("ValueError: ")) < 10) == with_bubblewrap
    assert check_program("pass", "pass").passed
    assert "PermissionError" in check_program("open('/etc/passwd')", "").reason
    assert "timeout" in check_program("while True: pass", "", timeout=0.5).reason


@needs_sandbox
def test_a_program_passes_when_its_test_runs_to_the_end():
    program = "import math, re, hashlib, decimal, collections, heapq, typing, datetime\n"
    program += "def area(r):\n    return math.pi * r * r\n"
    assert check_program(program, "assert abs(area(2) - 12.566) < 1e-3").passed


@needs_sandbox
def test_a_program_fails_when_its_test_does():
    verdict = check_program("def one(): return 2", "assert one() == 1, 'not one'")
    assert not verdict.passed
    assert verdict.reason == "AssertionError: not one"


@needs_sandbox
def test_the_environment_is_empty_and_output_goes_nowhere(monkeypatch, capfd):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    program = "import os\nprint('x' * 10**6)\nassert 'SECRET_TOKEN' not in os.environ"
    assert check_program(program, "").passed
    assert capfd.readouterr() == ("", "")


@needs_sandbox
def test_a_main_block_of_the_program_does_not_run():
    assert check_program("if __name__ == '__main__':\n    raise SystemExit", "").passed


@needs_sandbox
def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_host.tempfile, "tempdir", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    for program in ("pass", "while True: pass"):
        check_program(program, "", timeout=1.0)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_machine_without_the_sandbox_is_refused_unless_told_otherwise(monkeypatch):
    available.cache_clear()
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    try:
        assert not available()[0]
        with pytest.raises(SandboxError, match="--unsafe-code"):
            check_program("pass", "")
        assert check_program("open('/etc/hostname').close()", "", unsafe_code=True).passed
    finally:
        monkeypatch.undo()
        available.cache_clear()


def test_without_the_sandbox_the_processes_it_started_are_killed():
    program = "import os, time\npid = os.fork()\nif pid == 0: time.sleep(60)\nraise ValueError(pid)"
    verdict = check_program(program, "", timeout=5.0, unsafe_code=True)
    kind, _, pid = verdict.reason.partition(": ")
    assert kind == "ValueError"
    deadline = time.monotonic() + 5
    while _runs(int(pid)):
        assert time.monotonic() < deadline, "the grandchild is still there"
        time.sleep(0.05)


@needs_sandbox
def test_where_the_starter_is_killed_a_program_is_judged_again(monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", tuple)
    sandbox_host.close_hosts()
    before = set(_children(os.getpid()))
    assert check_program("pass", "").passed
    (starter,) = set(_children(os.getpid())) - before
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(check_program, "import time\ntime.sleep(1)", "", timeout=10.0)
        while not (judges := _children(starter)):
            time.sleep(0.01)
        os.kill(starter, signal.SIGKILL)
        assert slow.result().passed
    assert not _runs(judges[0])
    assert check_program("pass", "").passed


def test_an_unsafe_program_that_kills_the_starter_has_no_verdict():
    program = "import os\n"
    program += "parent = int(open(f'/proc/{os.getppid()}/stat').read().split()[3])\n"
    program += "os.kill(parent, 9)\nos.kill(os.getppid(), 9)"
    assert "without a verdict" in check_program(program, "", unsafe_code=True).reason
    assert check_program("pass", "", unsafe_code=True).passed


@needs_sandbox
def test_the_folder_is_known_and_nothing_above_it_can_be_written(tmp_path, monkeypatch):
    """Inside bubblewrap too, without the other walls: a folder that was opened outside would lead
    out of it."""
    program = "import os\nassert os.path.abspath('x') == os.getcwd() + '/x'\n"
    assert check_program(program, "").passed
    outer = bubblewrap()
    monkeypatch.setattr(sandbox_host.tempfile, "tempdir", str(tmp_path))
    payload = sandbox._payload("open('../written', 'w')", "", b"n", timeout=5.0, enforce=False)
    answer = sandbox_host.ask(payload, timeout=5.0, outer=outer)
    if outer:
        assert answer.kind == b"F" and b"Read-only file system" in answer.said
        assert list(tmp_path.iterdir()) == []


@needs_sandbox
def test_a_parent_that_ignores_its_children_keeps_its_starter():
    script = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    script += "from infifusion.sandbox import host as sandbox_host, programs as sandbox\n"
    script += "from infifusion.sandbox.programs import check_program\n"
    script += "sandbox.bubblewrap = tuple  # it hangs where SIGCHLD is ignored; tried for 30 s\n"
    script += "for _ in range(5):\n assert check_program('pass', '').passed\n"
    script += " hosts = {id(host) for host in sandbox_host._hosts.values()}\n"
    script += " first = hosts if _ == 0 else first\nassert hosts == first\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@needs_sandbox
def test_a_starter_that_hangs_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", tuple)
    monkeypatch.setattr(sandbox_host, "HUNG", 1.0)
    sandbox_host.close_hosts()
    before = set(_children(os.getpid()))
    assert check_program("pass", "").passed
    (starter,) = set(_children(os.getpid())) - before
    os.kill(starter, signal.SIGSTOP)
    started = time.monotonic()
    assert "timeout" in check_program("#" * 1_000_000, "", timeout=0.2).reason
    assert time.monotonic() - started < 5
    sandbox_host.close_hosts()
    assert not _runs(starter)
    assert check_program("pass", "").passed


@needs_sandbox
def test_too_many_open_files_are_said_and_none_is_left(monkeypatch):
    assert check_program("pass", "").passed
    descriptors = len(os.listdir("/proc/self/fd"))
    real, left = os.pipe, iter([True, False])

    def pipe():
        if next(left):
            return real()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(SandboxError, match="Too many open files"):
        check_program("pass", "")
    assert len(os.listdir("/proc/self/fd")) == descriptors


@needs_sandbox
def test_a_fork_has_a_starter_of_its_own():
    assert check_program("pass", "").passed
    fork = multiprocessing.get_context("fork").Process(target=_pass)
    fork.start()
    fork.join(30)
    assert fork.exitcode == 0
    assert check_program("pass", "").passed


@needs_sandbox
def test_where_no_process_can_be_started_nothing_is_judged(monkeypatch):
    starter = Path(sandbox_host.STARTER).read_text(encoding="utf-8")
    refuses = "def refuse(): raise OSError(11, 'no more processes')\nos.fork = refuse\n"
    broken = starter.replace("FOLDER = os.path.dirname(os.path.abspath(__file__))\n", refuses)
    folder = f"FOLDER = {str(sandbox_host.STARTER.parent)!r}\n"
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(sandbox_host, "STARTER", Path(place) / "starter.py")
        sandbox_host.STARTER.write_text(broken.replace(refuses, refuses + folder))
        sandbox_host.close_hosts()
        try:
            with pytest.raises(SandboxError, match="No process could be started.*no more"):
                check_program("pass", "")
        finally:
            sandbox_host.close_hosts()


@needs_sandbox
def test_nothing_runs_on_when_the_process_that_judges_is_killed():
    script = "import sys; from infifusion.sandbox.programs import check_program\n"
    script += "check_program('pass', ''); print('ready', flush=True)\n"
    script += "check_program('while True: pass', '', timeout=60.0)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        started = _descendants(process.pid)
        assert len(started) >= 3  # the starter, the test's process and the program's
        process.kill()
    deadline = time.monotonic() + 5
    while any(map(_runs, started)):
        assert time.monotonic() < deadline, "a process is still there"
        time.sleep(0.05)


def _pass() -> None:
    assert check_program("pass", "").passed


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descendants(pid: int) -> list[int]:
    """Of whatever thread."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _runs(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
