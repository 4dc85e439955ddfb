"""The demo's tasks: the three domains, asked zero-shot and checked as their big sisters are."""

from __future__ import annotations

import re
from dataclasses import replace

from infifusion.evals.tasks import Doc, Judgement, Judges, Task

NUMBER = re.compile(r"#### (-?\d+)")
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def _last(pattern: re.Pattern[str], output: str) -> str | None:
    found = pattern.findall(output)
    return found[-1] if found else None


def score_word(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """The number after the last `####` equals the answer."""
    answer = _last(NUMBER, output)
    return Judgement(answer, doc["answer"], {"exact_match": answer == doc["answer"]})


def score_sym(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """The content of the last `\\boxed{}` equals the answer, character for character."""
    answer = _last(BOXED, output)
    return Judgement(answer, doc["answer"], {"exact_match": answer == doc["answer"]})


def score_code(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """The completed function gives the reference's values, run in the sandbox."""
    program = doc["prompt"] + output
    try:
        compile(program, "<answer>", "exec")
    except (SyntaxError, ValueError) as error:
        return Judgement(None, doc["response"], {"pass@1": False}, note=f"does not parse: {error}")
    passed, note = judges.run_code(program, doc["test"])
    return Judgement(output, doc["response"], {"pass@1": passed}, note=note)


EXACT = Task(
    name="demo_word",
    description="Little stories with two steps of arithmetic, in the style of GSM8K.",
    headline="exact_match",
    file="demo_word.jsonl",
    score=score_word,
    response_field="response",
    id_field="id",
    max_new_tokens=64,
)
TASKS = {
    "demo_word": EXACT,
    "demo_sym": replace(
        EXACT,
        name="demo_sym",
        description="Small algebra with a boxed answer, in the style of MATH.",
        file="demo_sym.jsonl",
        score=score_sym,
    ),
    "demo_code": replace(
        EXACT,
        name="demo_code",
        description="One-line Python functions checked by tests, in the style of HumanEval.",
        headline="pass@1",
        file="demo_code.jsonl",
        score=score_code,
        gold_field="response",
        stop=("\n",),
        needs_sandbox=True,
    ),
}
