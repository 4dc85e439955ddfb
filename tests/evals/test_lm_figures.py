"""Our copy of lm-eval's figures is what lm-eval itself prints for the same outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from infifusion.evals.scoring import Output, score_outputs, summarise
from infifusion.evals.tasks import TASKS
from infifusion.sandbox.programs import available

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from lm_eval_figures import what_lm_eval_prints

needs_sandbox = pytest.mark.skipif(not available()[0], reason=f"no sandbox: {available()[1]}")


def require_the_same(
    name: str, docs: list[dict], outputs: list[str], tmp_path: Path
) -> dict[str, Any]:
    theirs = what_lm_eval_prints(name, docs, outputs, tmp_path)
    items = score_outputs(TASKS[name], docs, [Output(text) for text in outputs])
    ours = summarise(TASKS[name], items)["lm_eval"]
    assert ours.keys() <= theirs.keys()
    metrics = [key for key in theirs if "_stderr" not in key]
    assert metrics == [key for key in ours if "_stderr" not in key]
    for key in metrics:
        assert ours[key] == theirs[key], key
        metric, _, behind = key.partition(",")
        error = f"{metric}_stderr,{behind}"
        assert ours[error] == pytest.approx(theirs[error], abs=1e-15), error
    return ours


GSM8K_OUTPUTS = [
    "so it is $12.50.\n#### 12.50", "#### -3", "#### 1,000 apples", "1/2 or 0.5.", "...",
    "-7 (7)", "x = 3,", "#### 5\n\n#### 6", "", "cost: $ 4", "١٢", "3.", "**18**", "It is 18.",
    "#### 18", "#### $18", "####18", "18 dollars... anything else?", "<think>18</think>18", "18,",
]  # fmt: skip


def test_gsm8k(tmp_path: Path) -> None:
    golds = ["work\n#### 18", "#### 5", "#### 1,000", "it is -3\n#### -3", "#### 12.50"]
    docs = [
        {"question": f"q{at}", "answer": golds[at % len(golds)]}
        for at in range(len(GSM8K_OUTPUTS) * len(golds))
    ]
    outputs = [text for text in GSM8K_OUTPUTS for _ in golds]
    figures = require_the_same("gsm8k", docs, outputs, tmp_path)
    assert 0 < figures["exact_match,strict-match"] < figures["exact_match,flexible-extract"] < 1


MATH_OUTPUTS = [
    "Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.",
    "so $\\boxed{\\frac12}$", "the answer is 1/2", "0.5", "$\\boxed{0.5}$ or $\\boxed{3}$", "",
    "Final Answer: The final answer is $0.5$. I hope it is correct.", "**\\frac{1}{2}**",
    "Final Answer: The final answer is $3", "<think>\\boxed{\\frac12}", "50\\%",
]  # fmt: skip


def test_math(tmp_path: Path) -> None:
    docs = [
        {"problem": "p", "solution": "so $\\boxed{\\frac{1}{2}}$.", "answer": "\\frac{1}{2}"}
        for _ in MATH_OUTPUTS
    ]
    figures = require_the_same("math500", docs, MATH_OUTPUTS, tmp_path)
    assert 0 < figures["exact_match,none"] < 1 and 0 < figures["math_verify,none"] < 1


BODIES = [
    "    return x + 1\n", "return x + 1\n", "```python\ndef f(x):\n    return x + 1\n```",
    "    return x + 1\n```\nThis adds one.", "    return x\n", "", "    import sys; sys.exit()\n",
    "    return x + 1\n\nprint(f(1))\n", "def f(x):\n    return x + 1\n",
    "    return x + 1\n\nif __name__ == '__main__':\n    assert False\n",
    "    import numpy as np\n    return int(np.add(x, 1))\n", "    return input()\n",
]  # fmt: skip


@needs_sandbox
def test_humaneval(tmp_path: Path) -> None:
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    doc = {"prompt": 'def f(x):\n    """Add one."""\n', "entry_point": "f", "test": test}
    docs = [{**doc, "task_id": str(at)} for at in range(len(BODIES))]
    figures = require_the_same("humaneval", docs, BODIES, tmp_path)
    plain, instruct = "pass@1,create_test", "pass@1,create_test (instruct)"
    assert (
        0 < figures[plain] < 1 and 0 < figures[instruct] < 1 and figures[plain] != figures[instruct]
    )


@needs_sandbox
@pytest.mark.parametrize("name", ["mbpp", "mbpp_plus"])
def test_mbpp(name: str, tmp_path: Path) -> None:
    function = "def f(x):\n    return x + 1"
    outputs = [
        f"{function}\n", f"```python\n{function}\n```", f"python\n{function}\n```\nIt works.",
        f"\n{function}\n", f"Here:\n```python\n{function}\n```", "def f(x):\n    return 2\n", "",
        f"{function}\n```\n```python\nprint(1)\n```",
    ]  # fmt: skip
    tests = ["assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"]
    doc = {"text": "Add one.", "prompt": "Add one.", "code": function, "test_list": tests}
    doc |= {"test": "\n".join(tests), "test_imports": [], "test_setup_code": ""}
    docs = [{**doc, "task_id": at} for at in range(len(outputs))]
    figures = require_the_same(name, docs, outputs, tmp_path)
    plain, instruct = "pass_at_1,none", "pass_at_1,extract_code (instruct)"
    assert 0 < figures[plain] < 1 and 0 < figures[instruct] < 1


def test_a_task_that_lm_eval_does_not_have_has_no_figures() -> None:
    from infifusion.demo.tasks import TASKS as DEMO

    task = next(task for task in DEMO.values() if not task.needs_sandbox)
    doc = {task.gold_field: "#### 1", "id": "a", "prompt": "p"}
    items = score_outputs(task, [doc], [Output("#### 1")])
    assert items[0]["lm_eval"] == {} and "lm_eval" not in summarise(task, items)
