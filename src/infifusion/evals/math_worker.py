"""Comparing mathematical answers in a process of its own, killed when it takes too long.

sympy can run for ever on an answer like 9^{9^{9}}, and the time limits of lm-eval and math-verify
are SIGALRM: they fail in threads and do not interrupt C code. So both are called as libraries in a
worker that is killed, and started again, when an item is late. `extract` and `equivalent` are
Minerva's exact match (Lewkowycz et al. 2022, as in lm-eval); `verify` is math-verify.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any

from infifusion.errors import RunError

START_TIMEOUT = 120.0  # seconds to import sympy, math-verify and lm-eval on a busy machine
ITEM_TIMEOUT = 15.0  # seconds; above the 5 that lm-eval and math-verify allow themselves


class MathWorker:
    """A context manager around the process. Calls are serialised, so threads may share one.

    `timeout` is seconds per call; `timeouts` counts the calls that were killed.
    """

    def __init__(self, *, timeout: float = ITEM_TIMEOUT) -> None:
        self.timeout = timeout
        self.timeouts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> MathWorker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def extract(self, text: str) -> str | None:
        """The answer in a solution, normalised; None when there is none or it takes too long.

        Minerva's closing sentence "Final Answer: The final answer is ... I hope it is correct."
        counts before the last \\boxed{}.
        """
        value = self._call("extract", text)
        return value if isinstance(value, str) else None

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two normalised answers are the same text, or sympy finds them equal."""
        return bool(self._call("equivalent", left, right))

    def verify(self, gold: str, target: str) -> bool:
        """Whether math-verify finds `target` to answer like `gold`. It is not symmetric."""
        return bool(self._call("verify", gold, target))

    def _call(self, kind: str, *arguments: str) -> Any:
        with self._lock:
            process = self._process if self._alive() else self._start()
            assert process is not None and process.stdin is not None
            request = json.dumps([kind, *arguments]) + "\n"
            try:
                process.stdin.write(request.encode())
                process.stdin.flush()
                answer = _read_line(process, self.timeout)
            except (BrokenPipeError, EOFError):
                answer = None
            if answer is None:
                self.timeouts += 1
                self._stop()
                return None
            return json.loads(answer)

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self) -> subprocess.Popen[bytes]:
        self._stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "infifusion.evals.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            ready = _read_line(self._process, START_TIMEOUT)
        except EOFError:
            ready = None
        if ready is None:
            self._stop()
            raise RunError(
                "The process that compares mathematical answers did not start. Run `python -m "
                "infifusion.evals.math_worker` to see why; it needs lm-eval[math] and math-verify "
                "(antlr4-python3-runtime 4.11)."
            )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._process = None


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
        if not piece:
            raise EOFError
        line += piece
    return line


def _serve() -> None:
    """The worker's own loop: one JSON list in, one JSON value out, a line each."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    from lm_eval.tasks.minerva_math import utils as minerva
    from math_verify import parse, verify

    def extract(text: str) -> str | None:
        answer = minerva.get_unnormalized_answer(text)
        if answer == "[invalidanswer]":
            boxed = minerva.last_boxed_only_string(text)
            if boxed is None:
                return None
            answer = minerva.remove_boxed(boxed)
        return minerva.normalize_final_answer(answer)

    calls = {
        "extract": extract,
        "equivalent": minerva.is_equiv,
        "verify": lambda gold, target: verify(gold=parse(gold), target=parse(target)),
        "sleep": lambda seconds: time.sleep(float(seconds)),
    }
    print("ready", file=answers, flush=True)
    for line in sys.stdin.buffer:
        kind, *arguments = json.loads(line)
        try:
            value = calls[kind](*arguments)
        except Exception:  # an answer that the libraries choke on is a wrong answer
            value = None
        value = value if isinstance(value, str | None) else bool(value)
        print(json.dumps(value), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
