import time

import pytest

from infifusion.evals.math_worker import OURS, THEIRS, MathWorker


@pytest.fixture(scope="module")
def worker():
    with MathWorker() as worker:
        yield worker


def test_the_answer_is_the_closing_sentence_or_else_the_last_box(worker):
    assert worker.math_answer("so \\boxed{3} or rather \\boxed{\\frac{1}{2}}") == "\\frac{1}{2}"
    text = "\\boxed{3}\nFinal Answer: The final answer is $4$. I hope it is correct."
    assert worker.math_answer(text) == "4"
    assert worker.math_answer("the answer is 5") is None
    assert worker.math_answer("cut off at \\boxed{\\frac{1}{2") is None


def test_equal_in_another_form_is_equal(worker):
    assert worker.math_equal("\\frac{1}{2}", "0.5")
    assert worker.math_equal("x+1", "1+x")
    assert not worker.math_equal("x+1", "x-1")


def test_a_tuple_that_sympy_cannot_parse_equals_itself_only(worker):
    assert worker.math_equal("(3,\\frac{\\pi}{2})", "(3,\\frac{\\pi}{2})")
    assert not worker.math_equal("(3,\\frac{\\pi}{2})", "(3,\\frac{\\pi}{3})")


def test_verify_takes_gold_first(worker):
    gold, target = "$x > 1$", "$(1, \\infty)$"
    # math-verify is not symmetric: an interval answers an inequality, not the other way round.
    assert worker.math_verify(gold, target)
    assert not worker.math_verify(target, gold)


def test_a_late_item_is_wrong_and_the_next_one_is_judged():
    with MathWorker(timeout=5.0) as worker:
        assert worker.same_answer("1", "1.0")
        worker.timeout = 0.5
        started = time.monotonic()
        assert worker._call(OURS, "sleep", "60") is None
        assert time.monotonic() - started < 5
        assert worker.timeouts == 1
        worker.timeout = 10.0
        assert worker.same_answer("2", "2.0")


def test_the_process_ends_with_the_block():
    with MathWorker() as worker:
        worker.math_equal("1", "1")
        worker.same_answer("1", "1.0")
        processes = dict(worker._processes)
    assert processes.keys() == {OURS, THEIRS}
    assert all(process.poll() is not None for process in processes.values())


def test_a_worker_that_died_is_started_again():
    with MathWorker() as worker:
        assert worker.math_equal("1", "1")
        worker._processes[THEIRS].kill()
        worker._processes[THEIRS].wait()
        assert worker.math_equal("1", "1")
