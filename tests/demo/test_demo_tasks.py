from __future__ import annotations

import pytest

from infifusion.demo.domains import DOMAINS, problems
from infifusion.demo.tasks import TASKS
from infifusion.evals.scoring import Output, score_outputs, summarise
from infifusion.sandbox.programs import available
from infifusion.setup.suite import as_record

needs_sandbox = pytest.mark.skipif(not available()[0], reason=f"no sandbox: {available()[1]}")
EACH = [pytest.param(d, marks=needs_sandbox if d == "code" else ()) for d in DOMAINS]


def docs(domain: str, count: int = 20) -> list[dict]:
    return [as_record(p, n) for n, p in enumerate(problems(domain, "test", count, seed=0))]


@pytest.mark.parametrize("domain", EACH)
def test_reference_solutions_of_the_demo_are_all_right(domain: str):
    task = TASKS[f"demo_{domain}"]
    items = docs(domain)
    scored = score_outputs(task, items, [Output(doc["response"]) for doc in items])
    assert [item["correct"] for item in scored] == [True] * len(items)


@pytest.mark.parametrize("domain", EACH)
def test_answers_of_other_items_and_empty_ones_are_wrong(domain: str):
    task = TASKS[f"demo_{domain}"]
    first = docs(domain)[0]
    others = [doc for doc in docs(domain) if doc["answer"] != first["answer"]][:5]
    items = [dict(first, id=str(n)) for n in range(len(others) + 1)]
    outputs = [Output(doc["response"]) for doc in others] + [Output("")]
    summary = summarise(task, score_outputs(task, items, outputs))
    assert (summary["correct"], summary["n"]) == (0, len(others) + 1)


def test_the_last_marked_answer_counts():
    item = dict(docs("word", 1)[0], answer="7")
    outputs = ["1+1=2. #### 2 no, 3+4=7. #### 7", "3+4=7. #### 7 or #### 8", "the answer is 7"]
    items = [dict(item, id=str(n)) for n in range(3)]
    scored = score_outputs(TASKS["demo_word"], items, [Output(text) for text in outputs])
    assert [one["correct"] for one in scored] == [True, False, False]
    assert [one["extracted"] for one in scored] == ["7", "8", None]
