"""Mathematical answers are text from a model: whatever they hold, the worker's limits hold."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from infifusion.evals.math_worker import LONGEST, MEMORY, OURS, THEIRS, MathWorker
from infifusion.evals.scoring import Output, score_outputs
from infifusion.evals.tasks import TASKS

TIMEOUT = 6.0
SOLUTION = "Final Answer: The final answer is $\\boxed{17}$. I hope it is correct."
HOSTILE = {
    "a tower of powers": "9^{9^{9^{9}}}",
    "a huge factorial": "(10^{9})!",
    "a huge power": "2^{10^{12}}",
    "a huge binomial": "\\binom{10^9}{5\\cdot 10^8}",
    "a long number": "9" * 200_000,
    "deep braces": "{" * 20_000 + "1" + "}" * 20_000,
    "deep fractions": "\\frac{1}{" * 3_000 + "1" + "}" * 3_000,
    "deep brackets": "(" * 5_000 + "1" + ")" * 5_000,
    "a long sum": "+".join(["x"] * 20_000),
    "a large matrix": "\\begin{pmatrix}" + " & ".join(["1"] * 50_000) + "\\end{pmatrix}",
    "roots of roots": "\\sqrt{" * 2_000 + "2" + "}" * 2_000,
    "an integral": "\\int_0^{\\infty} x^{x^{x^{x}}} \\sin(x^{x}) dx",
    "blanks for a regular expression": " " * 100_000 + "$",
    "commas": "1," * 100_000,
    "python": "__import__('os').system('touch /tmp/infifusion-evaluated')",
    "python of sympy": "open('/tmp/infifusion-evaluated','w')",
    "NUL and surrogates": "\0\ud800\\frac{\0}{}",
    "more than is read": "1" * (LONGEST + 1),
}


@pytest.fixture(scope="module")
def worker():
    with MathWorker(timeout=TIMEOUT) as worker:
        yield worker


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_wrong_in_time_and_the_next_is_judged(name, worker):
    answer = HOSTILE[name]
    assert all(worker.lm_eval_math(SOLUTION, SOLUTION).values())  # the libraries are loaded
    assert worker.same_answer("1", "1.0")
    started = time.monotonic()
    worker.timeout = TIMEOUT
    assert not worker.same_answer("17", answer)
    assert not worker.same_answer("17", worker.final_answer(f"The answer is $\\boxed{{{answer}}}$"))
    assert time.monotonic() - started < 2 * TIMEOUT
    said = f"Final Answer: The final answer is $\\boxed{{{answer}}}$. I hope it is correct."
    assert not any(worker.lm_eval_math(SOLUTION, said).values())
    assert time.monotonic() - started < 4 * TIMEOUT + 30
    worker.math_fault()
    worker.timeout = 30.0
    assert all(worker.lm_eval_math(SOLUTION, SOLUTION).values())
    assert worker.math_fault() == ""
    assert not Path("/tmp/infifusion-evaluated").exists()


def test_the_worker_cannot_take_more_memory_than_it_has(worker):
    worker.lm_eval_math(SOLUTION, "17")
    worker.same_answer("1", "1.0")
    for kind in (OURS, THEIRS):
        limits = Path(f"/proc/{worker._processes[kind].pid}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
        assert int(line.split()[3]) < MEMORY + (8 << 30)  # what the libraries map, and MEMORY


def test_the_worker_does_not_see_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    with MathWorker() as worker:
        worker.lm_eval_math(SOLUTION, "17")
        worker.same_answer("1", "1.0")
        environments = [
            Path(f"/proc/{process.pid}/environ").read_bytes()
            for process in worker._processes.values()
        ]
    assert len(environments) == 2 and all(b"planted" not in one for one in environments)
    assert os.environ["HF_TOKEN"] == "hf_planted"


def test_an_item_without_a_verdict_says_why(monkeypatch):
    docs = [{"problem": "?", "solution": "\\boxed{1}", "unique_id": "a"}]
    long = "\\boxed{" + "1" * LONGEST + "}"
    [item] = score_outputs(TASKS["math500"], docs, [Output(long)])
    assert not item["correct"]
    assert item["note"] == f"longer than {LONGEST:,} characters"
