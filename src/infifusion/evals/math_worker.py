"""Comparing mathematical answers in a process of its own, with hard limits.

An answer is hostile text: sympy can run for ever on 9^{9^{9}}, takes all memory for a large power,
and math-verify hands what looks like arithmetic to sympy's parse_expr, which evaluates it as
Python. The time limits of lm-eval and math-verify are SIGALRM: they fail in threads and do not
interrupt C code. So both are called as libraries in a worker that is killed, and started again,
when an item is late; that has MEMORY bytes and no more; and that, where the kernel can enforce it
(Landlock, seccomp), reads nothing but Python's libraries, writes nothing, and has no network and no
processes. There are two, each started when it is first asked: OURS judges by evals/same_answer,
THEIRS computes the metrics of lm-eval's Minerva task (Lewkowycz et al. 2022), math-verify's among
them, which stand beside ours.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import re
import select
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from infifusion.errors import RunError, SandboxError
from infifusion.evals.same_answer.final_answer import final_answer
from infifusion.sandbox import walls
from infifusion.sandbox.seccomp import seccomp_filter

START_TIMEOUT = 120.0  # seconds to import sympy, math-verify and lm-eval on a busy machine
ITEM_TIMEOUT = 15.0  # seconds; above the 5 that lm-eval and math-verify allow themselves
MEMORY = 2 << 30  # bytes of address space beyond what the libraries take
LONGEST = 1 << 20  # characters; a response of 8,192 tokens has some 40,000
LARGEST_ANSWER = 8 * LONGEST  # bytes from the worker
OURS, THEIRS = "ours", "theirs"
INTEGER = re.compile(r"-?[0-9]{1,15}")
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")  # of the environment


class MathWorker:
    """A context manager around the processes. Calls are serialised, so threads may share one.

    Its methods are those of evals.tasks.task.Judges. `timeout` is seconds per call; `timeouts`
    counts the calls that were killed. A call that has no answer counts as wrong; `math_fault` says
    why.
    """

    def __init__(self, *, timeout: float = ITEM_TIMEOUT) -> None:
        self.timeout = timeout
        self.timeouts = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._faults = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the next question starts them again."""
        for kind in list(self._processes):
            self._stop(kind)

    def final_answer(self, output: str) -> str | None:
        """Where the answer stands in an output (same_answer.final_answer)."""
        if len(output) > LONGEST:
            self._failed(f"longer than {LONGEST:,} characters")
            return None
        return final_answer(output)

    def same_answer(self, gold: str, answer: str | None) -> bool:
        """Whether two answers say the same (same_answer.same)."""
        if answer is None:
            return False
        if INTEGER.fullmatch(gold) and INTEGER.fullmatch(answer):
            return int(gold) == int(answer)
        return bool(self._call(OURS, "same", gold, answer))

    def lm_eval_math(self, solution: str, output: str) -> dict[str, float]:
        """The metrics of lm-eval's Minerva task for an output, by name; 0 where it has no answer in
        time. `solution`: the reference, with its answer in a box."""
        value = self._call(THEIRS, "lm_eval", solution, output)
        found = json.loads(value) if isinstance(value, str) else {}
        return {name: float(found.get(name, 0)) for name in ("exact_match", "math_verify")}

    def math_fault(self) -> str:
        """Why calls of this thread had no answer since it last asked; empty where all had."""
        said = "; ".join(dict.fromkeys(getattr(self._faults, "said", [])))
        self._faults.said = []
        return said

    def _failed(self, why: str) -> None:
        self._faults.said = [*getattr(self._faults, "said", []), why]

    def _call(self, kind: str, name: str, *arguments: str) -> Any:
        if max(map(len, arguments)) > LONGEST:
            self._failed(f"longer than {LONGEST:,} characters")
            return None
        request = json.dumps([name, *arguments]) + "\n"
        with self._lock:
            answer, why = self._asked(kind, request)
            if answer is None and not why:
                # A process ends with the thread that started it, which is no fault of the answer.
                answer, why = self._asked(kind, request)
            if answer is None:
                self.timeouts += 1
                self._failed(why or "the process that compares answers crashed on it")
                return None
            value, fault = json.loads(answer)
            if fault:
                self._failed(fault)
            return value

    def _asked(self, kind: str, request: str) -> tuple[bytes | None, str]:
        """The process's answer; else None and why, "" where the process is gone."""
        process = self._running(kind)
        assert process.stdin is not None
        try:
            process.stdin.write(request.encode())
            process.stdin.flush()
            answer = _read_line(process, self.timeout)
            why = f"timeout: more than {self.timeout:g} s"
        except (BrokenPipeError, EOFError):
            answer, why = None, ""
        if answer is None:
            self._stop(kind)
        return answer, why

    def _running(self, kind: str) -> subprocess.Popen[bytes]:
        process = self._processes.get(kind)
        if process is not None and process.poll() is None:
            return process
        self._stop(kind)
        process = self._processes[kind] = subprocess.Popen(
            [sys.executable, "-m", "infifusion.evals.math_worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in KEPT if name in os.environ}
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        try:
            ready = _read_line(process, START_TIMEOUT)
        except EOFError:
            ready = None
        if ready is None:
            self._stop(kind)
            needed = "sympy" if kind == OURS else "lm-eval[math] and math-verify (antlr4 4.11)"
            raise RunError(
                "The process that compares mathematical answers did not start. Run `python -m "
                f"infifusion.evals.math_worker {kind}` to see why; it needs {needed}."
            )
        return process

    def _stop(self, kind: str) -> None:
        process = self._processes.pop(kind, None)
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


_shared: dict[int, MathWorker] = {}
_sharing = threading.Lock()


def shared_worker() -> MathWorker:
    """The worker of this process for single questions; it ends with the process."""
    with _sharing:
        if os.getpid() not in _shared:  # a fork must not talk to its parent's
            _shared.clear()
            _shared[os.getpid()] = MathWorker()
            atexit.register(_shared[os.getpid()].close)
        return _shared[os.getpid()]


def _read_line(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """One line of answer; None when it is late; EOFError when the process is gone."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return None
        piece = os.read(process.stdout.fileno(), 1 << 16)
        if not piece or len(line) > LARGEST_ANSWER:
            raise EOFError
        line += piece
    return line


def _ours() -> dict[str, Callable[..., Any]]:
    from infifusion.evals.same_answer.same import same_answer

    return {"same": same_answer}


def _theirs() -> dict[str, Callable[..., Any]]:
    from lm_eval.tasks.minerva_math import utils as minerva

    def lm_eval(solution: str, output: str) -> str:
        boxed = minerva.last_boxed_only_string(solution) or ""
        answer = minerva.normalize_final_answer(minerva.remove_boxed(boxed)) if boxed else ""
        doc = {"solution": solution, "answer": answer}
        return json.dumps(minerva.process_results(doc, [output]))

    return {"lm_eval": lm_eval}


def _serve(kind: str) -> None:
    """The worker's own loop: one JSON list in, one JSON value out, a line each."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    calls = _ours() if kind == OURS else _theirs()
    calls["sleep"] = lambda seconds: time.sleep(float(seconds))
    _wall_in()
    print("ready", file=answers, flush=True)
    for line in sys.stdin.buffer:
        name, *arguments = json.loads(line)
        fault = ""
        try:
            value = calls[name](*arguments)
        except MemoryError:
            value, fault = None, f"needs more than {MEMORY >> 30} GiB of memory"
        except Exception as error:  # an answer that the libraries choke on is a wrong answer
            value, fault = None, f"{type(error).__name__}: {error}"[:200]
        value = value if isinstance(value, str | None) else bool(value)
        print(json.dumps([value, fault]), file=answers, flush=True)


def _wall_in() -> None:
    """Give up what comparing does not need, once the libraries are loaded."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    files = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    walls.limit_resources({"RLIMIT_AS": taken + MEMORY, **files})
    walls.die_with_parent()
    own = filter(os.path.exists, sys.path)
    readable = [sysconfig.get_path("stdlib"), *own, *walls.LIBRARIES]
    with contextlib.suppress(OSError, SandboxError):  # the limits above hold on any Linux
        walls.restrict(readable, seccomp_filter(platform.machine(), alarms=True))


if __name__ == "__main__":
    _serve(sys.argv[1])
