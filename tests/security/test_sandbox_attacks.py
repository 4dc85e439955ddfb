"""Real attacks on the sandbox. Each program does its worst and says ESCAPED if it got through."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import infifusion
from infifusion.sandbox.programs import available, check_program

pytestmark = pytest.mark.skipif(not available()[0], reason=f"no sandbox: {available()[1]}")

SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    done = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
    if done < 0: raise OSError(ctypes.get_errno(), "refused")
    return done
"""
# What must raise. SECRET is a file of the test, PORT a listening one, PARENT the test's process.
FORBIDDEN = {
    "read a secret": "open(SECRET).read()",
    "read it with os.open": "os.read(os.open(SECRET, 0), 9)",
    "read it with openat2": "call(437, -100, SECRET.encode(), b'\\0' * 24, 24)",
    "map a file of another folder": "import mmap; mmap.mmap(os.open(SECRET, 0), 0, prot=1)",
    "read the memory of itself": "open('/proc/self/mem', 'rb')",
    "read the memory of the test": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "read the environment of the parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "list the root": "os.listdir('/')",
    "list the home folders": "os.listdir('/root'), os.listdir('/home')",
    "go elsewhere": "os.chdir('/')",
    "write where it is": "open('x', 'w')",
    "write to /tmp": "open('/tmp/infifusion-escaped', 'w')",
    "write a secret": "open(SECRET, 'w')",
    "append to a secret": "open(SECRET, 'a')",
    "truncate a secret": "os.truncate(SECRET, 0)",
    "create with creat": "call(85, b'x', 0o600)",
    "make a folder": "os.mkdir('d')",
    "make a link": "os.symlink(SECRET, 'x')",
    "make a hard link": "os.link(SECRET, 'x')",
    "make a pipe with a name": "os.mkfifo('x')",
    "rename a secret": "os.rename(SECRET, SECRET + '2')",
    "remove a secret": "os.remove(SECRET)",
    "change its rights": "os.chmod(SECRET, 0o777)",
    "change its times": "os.utime(SECRET)",
    "a file in memory": "os.memfd_create('x')",
    "mount": "call(165, b'none', b'/', b'tmpfs', 0, 0)",
    "change the root": "os.chroot('.')",
    "connect by TCP": "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
    "send by UDP": "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', PORT))",
    "a unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a pair of sockets": "import socket; socket.socketpair()",
    "a netlink socket": "import socket; socket.socket(16, 3, 0)",
    "a raw socket": "import socket; socket.socket(2, 3, 1)",
    "a socket by its number": "call(41, 2, 1, 0)",
    "resolve a name": "import socket; socket.getaddrinfo('localhost', 80, proto=17)",
    "fork": "os.fork()",
    "a fork bomb": "[os.fork() for _ in range(10**4)]",
    "vfork by its number": "call(58)",
    "clone by its number": "call(56, 17, 0, 0, 0, 0)",
    "clone3 by its number": "call(435, b'\\0' * 88, 88)",
    "execute a shell": "os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "a subprocess": "import subprocess; subprocess.run(['true'])",
    "system": "import os; assert os.system('true') == 0",
    "multiprocessing": "import multiprocessing as m; m.get_context('fork').Process().start()",
    "a thread": "import threading; threading.Thread(target=print).start()",
    "signal the test": "os.kill(os.getppid(), 0)",
    "kill its group": "os.killpg(0, 9)",
    "kill everything": "os.kill(-1, 9)",
    "kill with tgkill": "call(234, os.getppid(), os.getppid(), 9)",
    "have the kernel signal": "import fcntl; fcntl.fcntl(1, 8, os.getppid())",
    "trace the test": "call(101, 16, os.getppid(), 0, 0)",
    "read memory of the test": "call(310, os.getppid(), b'\\0' * 16, 1, b'\\0' * 16, 1, 0)",
    "open the test as pidfd": "call(434, os.getppid(), 0)",
    "take a descriptor of the test": "call(438, 0, 3, 0)",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "limit the test": "call(302, os.getppid(), 0, b'\\0' * 16, 0)",
    "a namespace": "call(272, 0x10000000)",
    "io_uring": "call(425, 8, b'\\0' * 120)",
    "bpf": "call(321, 0, b'\\0' * 72, 72)",
    "performance counters": "call(298, b'\\0' * 128, 0, -1, -1, 0)",
    "keys of the kernel": "call(250, 0, 0, 0, 0, 0)",
    "an interval timer": "import signal; signal.setitimer(signal.ITIMER_REAL, 1)",
    "become another user": "os.setuid(12345)",
    "take 3 GiB": "bytearray(3 << 30)",
    "take it in pieces": "[bytearray(1 << 24) for _ in range(1000)]",
    "map 3 GiB": "import mmap; mmap.mmap(-1, 3 << 30)",
    "open 1,000 files": "[open(os.__file__) for _ in range(1000)]",
}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    secret = tmp_path_factory.mktemp("outside") / "secret.txt"
    secret.write_text("PLANTED")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield secret, server


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_raises(name, target):
    secret, server = target
    if "call(" in FORBIDDEN[name] and platform.machine() != "x86_64":
        pytest.skip("its numbers are those of x86_64")
    program = SYSCALL + f"SECRET, PORT = {str(secret)!r}, {server.getsockname()[1]}\n"
    program += f"{FORBIDDEN[name]}\nraise SystemExit('ESCAPED')"
    verdict = check_program(program, "", timeout=10.0)
    assert not verdict.passed
    assert "ESCAPED" not in verdict.reason
    assert "without a verdict" not in verdict.reason  # it was refused, it did not crash
    assert "timeout" not in verdict.reason
    assert secret.read_text() == "PLANTED"
    assert not Path("/tmp/infifusion-escaped").exists()
    with pytest.raises(TimeoutError):
        server.accept()


HOGS = {
    "loops": "while True: pass",
    "a loop that catches everything": "while True:\n try: 1/0\n except BaseException: pass",
    "a long sleep": "import time; time.sleep(600)",
    "a regular expression": "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    "a large number": "9 ** 9 ** 9",
    "a flood of output": "import os\nwhile True: print('x' * 10**6); os.write(2, b'x' * 10**6)",
    "waits for a signal": "import signal; signal.sigwait([10])\nwhile True: pass",
    "ignores signals": (
        "import signal\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 15)]\nwhile 1: pass"
    ),
}


@pytest.mark.parametrize("name", HOGS)
def test_a_hog_is_ended_when_its_time_is_over(name):
    started = time.monotonic()
    verdict = check_program(HOGS[name], "", timeout=1.0)
    assert "timeout" in verdict.reason or "Memory" in verdict.reason or "Error" in verdict.reason
    assert time.monotonic() - started < 8


# Every program answers 1 where 2 is right. FLOOD says "passed" in every way that it knows.
FLOOD = """
import os, sys
def claim(nonces):
    for nonce in nonces:
        said = b'P' + nonce
        for fd in range(64):
            for text in (len(said).to_bytes(2, 'big') + said, said, b'["ready", []]'):
                try: os.write(fd, text)
                except OSError: pass
    os._exit(0)
def f(x): return 1
"""
SEARCH = """
import re
found = set()
def look(value, depth=3):
    if isinstance(value, bytes) and re.fullmatch(rb'[0-9a-f]{32}', value): found.add(value)
    elif isinstance(value, dict) and depth:
        for one in list(value.values()): look(one, depth - 1)
    elif isinstance(value, (list, tuple)) and depth:
        for one in value: look(one, depth - 1)
"""
FORGERIES = {
    "leaves with status 0": "import os\ndef f(x): os._exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "sys.exit": "import sys\ndef f(x): sys.exit(0)",
    "SystemExit": "def f(x): raise SystemExit(0)",
    "equals everything": (
        "class T:\n __eq__ = __ge__ = __le__ = lambda s, o: True\n __hash__ = lambda s: 2\n"
        "def f(x): return T()"
    ),
    "an int that equals everything": (
        "class T(int):\n __eq__ = lambda s, o: True\n __hash__ = int.__hash__\n"
        "def f(x): return T(1)"
    ),
    "a list that equals everything": (
        "class T(list):\n __eq__ = lambda s, o: True\ndef f(x): return T([T()])"
    ),
    "patched builtins": (
        "import builtins\nbuiltins.AssertionError = None\nbuiltins.abs = lambda x: 0\n"
        "builtins.isinstance = lambda *a: True\ndef f(x): return 1"
    ),
    "builtins of its own": "abs = len = all = sorted = lambda *a: 0\ndef f(x): return 1",
    "its own check": "def check(*a): pass\nassert_equal = check\ndef f(x): return 1",
    "patched peers": (
        "import sys\nfor m in list(sys.modules.values()):\n"
        "  if hasattr(m, 'Peer'): m.Peer.pack = lambda s, v: ['int', '0x2']; m.Gone = None\n"
        "def f(x): return 1"
    ),
    "claims with a guess": FLOOD + "claim([b'0' * 32])",
    "claims when it is called": FLOOD + "def f(x): claim([b'0' * 32])",
    "frames": FLOOD
    + SEARCH
    + "def f(x):\n  frame = sys._getframe()\n"
    + "  while frame: look(dict(frame.f_locals), 5); look(frame.f_globals); frame = frame.f_back\n"
    + "  claim(found or [b'0' * 32])",
    "all objects": FLOOD
    + SEARCH
    + "import gc\nfor one in gc.get_objects(): look(one)\nclaim(found or [b'0' * 32])",
    "inspect": FLOOD
    + SEARCH
    + "import inspect\n"
    + "def f(x):\n  for s in inspect.stack(): look(dict(s.frame.f_locals), 5)\n  claim(found)",
    "its heap by ctypes": FLOOD
    + "import ctypes, re\nstart = id(object()) & ~0xfffff\nfound = set()\n"
    + "found |= set(re.findall(rb'[0-9a-f]{32}', ctypes.string_at(start, 1 << 20)))\n"
    + "claim(list(found)[:999] or [b'0' * 32])",
    "atexit": FLOOD + "import atexit\natexit.register(claim, [b'0' * 32])\nsys.exit(0)",
    "a trace": FLOOD + "def t(*a): claim([b'0' * 32])\nsys.settrace(t); sys.setprofile(t)",
    "an audit hook": FLOOD + "sys.addaudithook(lambda *a: None)\nsys.excepthook = claim",
    "a finaliser": FLOOD + "class D:\n def __del__(s): claim([b'0' * 32])\nd = D()\ndel d",
    "a patched compile": (
        "import builtins\nbuiltins.compile = lambda *a: (lambda: 0).__code__\n"
        "builtins.exec = lambda *a: None\ndef f(x): return 1"
    ),
    "an error in place of an answer": "def f(x): raise GeneratorExit",
    "the interrupt of a keyboard": "def f(x): raise KeyboardInterrupt",
    "an answer without end": "def f(x):\n  a = []\n  a.append(a)\n  return a",
    "an answer too deep": "def f(x):\n  a = 2\n  for _ in range(10**5): a = [a]\n  return a",
    "an answer too large": "def f(x): return 'x' * (1 << 29)",
    "nonsense in place of an answer": (
        "import os\ndef f(x):\n  for fd in range(64):\n"
        "    try: os.write(fd, (9).to_bytes(8, 'big') + b'[\"yours\"]')\n    except OSError: pass"
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize(
    "test",
    ["assert f(1) == 2", "def check(g):\n  assert abs(g(1) - 2) < 0.5\ncheck(f)"],
    ids=["equal", "close"],
)
def test_a_wrong_answer_does_not_pass_whatever_the_program_does(name, test):
    verdict = check_program(FORGERIES[name], test, timeout=10.0)
    assert not verdict.passed
    assert "timeout" not in verdict.reason


LOOKS_INSIDE = {
    "globals of a function that the test passes": "g.__globals__",
    "its code": "g.__code__",
    "changes it": "setattr(g, 'x', 1)",
    "its class": "g.__class__.__mro__[0].__subclasses__()[0]('x')",
}


@pytest.mark.parametrize("name", LOOKS_INSIDE)
def test_a_program_may_call_what_the_test_passes_but_not_look_inside(name):
    honest = "def f(g): return g(20) + 1"
    test = "SECRET = 1\nassert f(lambda n: 2 * n) == 41"
    assert check_program(honest, test).passed
    curious = f"def f(g):\n  it = {LOOKS_INSIDE[name]}\n  return 41 if it is not None else 0"
    if name == "its class":
        # What it finds is its own side's stand-in, not the test's function.
        curious = "def f(g): return 41 if g.__class__.__name__ == 'function' else 0"
    verdict = check_program(curious, "assert f(lambda n: n) == 41")
    assert not verdict.passed


def test_no_process_survives():
    """A process that takes over orphans ends up with none."""
    script = """
import ctypes, os, sys, time
from infifusion.sandbox import host
from infifusion.sandbox.programs import check_program
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
for program, test in (
    ("def f(): return 1", "assert f() == 1"),
    ("while True: pass", ""),
    ("def f():\\n while True: pass", "f()"),
    ("def f(): return 1", "while True: pass"),
    ("import os\\nos._exit(0)", ""),
    ("import os\\nwhile True:\\n try: os.fork()\\n except OSError: pass", ""),
):
    check_program(program, test, timeout=1.0)
host.close_hosts()
deadline = time.monotonic() + 5
while True:
    try:
        ended, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        sys.exit(0)
    if time.monotonic() > deadline:
        sys.exit("a process is still there")
    time.sleep(0.02)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_holds_for_root_and_for_nobody():
    """A copy that nobody may read, by the system's Python: the rest lies in a home folder."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("only root can become nobody, and nobody needs a Python of the system")
    old = subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"])
    if old.returncode:
        pytest.skip("the system's Python is older than 3.11")
    script = """
import os
import infifusion
from infifusion.sandbox.programs import available, check_program
assert available()[0], available()
who = "import os\\ndef f(): return os.getuid()"
assert check_program(who, f"assert f() == {os.getuid()}").passed
for bad in ("open('/etc/passwd')", "open('x', 'w')", "import os; os.fork()",
            "import socket; socket.socket()", "import os; os.kill(os.getppid(), 9)"):
    assert "PermissionError" in check_program(bad, "").reason, bad
assert not check_program("import os; os._exit(0)", "").passed
assert "timeout" in check_program("while True: pass", "", timeout=1.0).reason
"""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "infifusion"
        here = Path(infifusion.__file__).parent
        (package / "process").mkdir(parents=True)
        for name in ("__init__.py", "errors.py", "process/__init__.py"):
            shutil.copy(here / name, package / name)
        shutil.copytree(here / "sandbox", package / "sandbox")
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o755)
        for user in ("root", "nobody"):
            done = subprocess.run(
                [python, "-c", script],
                user=user,
                group=0 if user == "root" else 65534,
                extra_groups=[],
                cwd=folder,
                env={"PYTHONPATH": folder, "PATH": os.environ["PATH"]},
                capture_output=True,
                timeout=120,
            )
            assert (user, done.returncode, done.stderr) == (user, 0, b"")
