"""Every pair of answer_cases and every output of output_cases, as users and scorers ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path

import pytest
from answer_cases import KINDS
from output_cases import KINDS as OUTPUTS

import infifusion
from infifusion.evals.math_worker import MathWorker
from infifusion.evals.scoring import Output, score_outputs
from infifusion.evals.tasks import TASKS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HERE = Path(__file__).parent

# No runtime of ANTLR, and no grader that needs one, is there to be asked.
WITHOUT_ANTLR = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("antlr4", "latex2sympy2_extended", "math_verify", "lm_eval"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
from answer_cases import KINDS
from infifusion.evals.same_answer.same import same_answer
print(json.dumps([[same_answer(g, a) for g, a, _ in cases] for cases in KINDS.values()]))
"""


@pytest.fixture(scope="module")
def worker():
    with MathWorker() as worker:
        yield worker


def test_there_are_enough_cases() -> None:
    assert sum(map(len, KINDS.values())) > 1000 and len(KINDS) > 20
    assert sum(map(len, OUTPUTS.values())) > 140


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_a_kind_is_judged_right(kind: str, worker: MathWorker) -> None:
    found = [(gold, answer, worker.same_answer(gold, answer)) for gold, answer, _ in KINDS[kind]]
    assert [one for one, wanted in zip(found, KINDS[kind], strict=True) if one != wanted] == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_not_matter_which_of_two_answers_is_the_right_one(
    kind: str, worker: MathWorker
) -> None:
    turned = [(gold, answer, worker.same_answer(answer, gold)) for gold, answer, _ in KINDS[kind]]
    assert [one for one, wanted in zip(turned, KINDS[kind], strict=True) if one != wanted] == []


def test_every_answer_is_the_same_as_itself(worker: MathWorker) -> None:
    every = {gold for cases in KINDS.values() for gold, _, _ in cases if gold}
    assert [answer for answer in every if not worker.same_answer(answer, answer)] == []


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_answer_is_found_where_it_stands(kind: str, worker: MathWorker) -> None:
    wrong = []
    for output, wanted in OUTPUTS[kind]:
        found = infifusion.final_answer(output)
        if not (found is None if wanted is None else worker.same_answer(wanted, found)):
            wrong.append((output, wanted, found))
    assert wrong == []


def test_no_runtime_of_antlr_takes_part_in_a_verdict() -> None:
    """What math-verify says of 50 % and 0.5 depends on which of three is installed."""
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_ANTLR, str(HERE)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    wanted = [[same for _, _, same in cases] for cases in KINDS.values()]
    assert json.loads(told.stdout) == wanted


def test_the_public_functions_say_the_same_in_threads() -> None:
    cases = KINDS["percent"] + KINDS["roots"]
    found: dict[int, list[bool]] = {}

    def judge(number: int) -> None:
        found[number] = [infifusion.same_answer(gold, answer) for gold, answer, _ in cases]

    # A process ends with the thread that started it: each thread starts the next one's anew.
    judge(0)
    threads = [threading.Thread(target=judge, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    judge(4)
    assert all(found[number] == [same for _, _, same in cases] for number in range(5))


def test_a_process_that_dies_between_two_questions_changes_no_verdict() -> None:
    with MathWorker() as worker:
        assert worker.same_answer("1/2", "0.5")
        [process] = worker._processes.values()
        process.kill()
        process.wait()
        assert worker.same_answer("1/2", "0.5") and worker.math_fault() == ""


def test_no_answer_is_never_the_same() -> None:
    assert not infifusion.same_answer("5", None)
    assert not infifusion.same_answer("5", "")
    assert not infifusion.same_answer("", "")


def test_plain_integers_need_no_process() -> None:
    with MathWorker() as worker:
        assert worker.same_answer("1319", "1319") and not worker.same_answer("1319", "131")
        assert worker._processes == {}


def score(task: str, gold: str, output: str) -> dict:
    fields = {"gsm8k": ("question", "answer"), "math500": ("problem", "solution")}[task]
    doc = dict(zip(fields, ("?", gold), strict=True))
    return score_outputs(TASKS[task], [doc], [Output(output)])[0]


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("It costs $29.00.", True),
        ("So 29...", True),
        ("#### 29\n\nCheck: 30 - 1.", True),
        ("So **29** of 30.", True),
        ("<think>29</think> It is 30.", False),
        ("<think>It is 29.", False),
        ("\u221229", False),
        ("58/2", True),
        ("29%", True),
        ("290", False),
    ],
)
def test_gsm8k_is_scored_by_the_same_answer(output: str, right: bool) -> None:
    item = score("gsm8k", "work\n#### 29", output)
    assert (item["correct"], item["same_answer"]) == (right, right)


@pytest.mark.parametrize(
    ("gold", "output", "right"),
    [
        (r"\boxed{73}", "**73**", True),
        (r"\boxed{73}", "The answer is 73.\nI hope this helps.", True),
        (r"\boxed{5}", r"\fbox{5}", True),
        (r"\boxed{50\%}", r"\boxed{0.5}", True),
        (r"\boxed{x+2y=3}", r"\boxed{x+y=3}", False),
        (r"\boxed{101_2}", r"\boxed{101_3}", False),
        (r"\boxed{4}", r"First \boxed{3}, no: \boxed{4}.", True),
        (r"\boxed{4}", r"<think>\boxed{4}", False),
        (r"\boxed{[-2,7]}", r"$\boxed{x\in\left[-2,7\right]}$", True),
        (r"\boxed{2^{-99}}", r"\boxed{2^{-98}}", False),
    ],
)
def test_math_is_scored_by_the_same_answer(gold: str, output: str, right: bool) -> None:
    item = score("math500", gold, output)
    assert (item["correct"], item["same_answer"]) == (right, right)


def test_scores_by_other_rules_are_not_taken_for_these() -> None:
    from infifusion.stages.evaluate import decides_scores

    for name, number in (("gsm8k", 3), ("math", 2), ("math500", 2)):
        assert decides_scores(TASKS[name], None)["scoring"] == number


# 301 different golds of MATH-500: the pairs of these that say the same.
ALIKE = {
    (r"(-2,1)", "-2,1"), ("-2,1", "1,-2"), (r"10,\!080", "10080"), ("120", r"120^\circ"),
    ("15", r"15\mbox{ cm}^2"), (r"180^\circ", r"\pi"), (r"2 \sqrt{5}", r"2\sqrt{5}"),
    ("30", r"30^\circ"), ("36", r"36^\circ"), ("36", r"\$36"), ("5", "x=5"), ("90", r"90^\circ"),
    (r"\frac14", r"\frac{1}{4}"),
}  # fmt: skip


@pytest.mark.slow
def test_of_all_pairs_of_golds_only_those_that_say_the_same_are_equal() -> None:
    path = SHARED / "math500.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    from infifusion.evals.same_answer.same import same_answer

    lines = path.read_text(encoding="utf-8").splitlines()
    golds = sorted({json.loads(line)["answer"] for line in lines})
    assert len(golds) == 301
    assert {pair for pair in combinations(golds, 2) if same_answer(*pair)} == ALIKE


def test_a_hard_answer_takes_no_longer_than_its_limit() -> None:
    """Nested towers are not computed, and what is not read is refused at once."""
    with MathWorker(timeout=10.0) as worker:
        worker.same_answer("1/2", "0.5")
        started = time.monotonic()
        for gold, answer, wanted in KINDS["hostile"]:
            assert worker.same_answer(gold, answer) is wanted
        assert worker.timeouts == 0 and time.monotonic() - started < 20
