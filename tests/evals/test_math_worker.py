import time

from infifusion.evals.math_worker import OURS, THEIRS, MathWorker

SOLUTION = "so $\\boxed{\\frac{1}{2}}$."
BOTH = {"exact_match": 1.0, "math_verify": 1.0}


def test_lm_eval_reads_the_closing_sentence_and_math_verify_the_boxes():
    closing = "Final Answer: The final answer is ${}$. I hope it is correct."
    with MathWorker() as worker:
        assert worker.lm_eval_math(SOLUTION, closing.format("0.5")) == BOTH
        found = worker.lm_eval_math(SOLUTION, "\\boxed{\\frac12}")
        assert found == {"exact_match": 0.0, "math_verify": 1.0}
        assert not any(worker.lm_eval_math(SOLUTION, closing.format("3")).values())


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
        worker.lm_eval_math(SOLUTION, "0.5")
        worker.same_answer("1", "1.0")
        processes = dict(worker._processes)
    assert processes.keys() == {OURS, THEIRS}
    assert all(process.poll() is not None for process in processes.values())


def test_a_worker_that_died_is_started_again():
    with MathWorker() as worker:
        assert worker.lm_eval_math(SOLUTION, SOLUTION)["math_verify"]
        worker._processes[THEIRS].kill()
        worker._processes[THEIRS].wait()
        assert worker.lm_eval_math(SOLUTION, SOLUTION)["math_verify"]
