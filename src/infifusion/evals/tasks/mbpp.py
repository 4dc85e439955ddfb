"""MBPP (Austin et al. 2021, arXiv 2108.07732): a short function from a sentence and three tests;
MBPP+ (Liu et al. 2023, arXiv 2305.01210) has those of its items that are well posed, and 35 times
as many tests."""

from __future__ import annotations

import builtins
import symtable
from dataclasses import replace
from pathlib import Path

from infifusion.evals.tasks.programs import Asked, program_of
from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task

TEST_SPLIT = range(11, 511)
"""Items that MBPP is published for: 1 to 10 are for prompts, those behind for training."""


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """pass@1 of one output, in the sandbox."""
    tests = tests_of(doc)
    program = program_of(output, Asked(names=_names(tests)))
    test = str(doc["test"]) if task.gold_field == "test" else tests
    passed, reason = judges.run_code(program, test) if program else (False, "no code")
    return Judgement(
        extracted=program or None,
        gold=str(doc.get("code", "")),
        metrics={"pass@1": passed},
        note="" if passed else reason,
    )


def tests_of(doc: Doc) -> str:
    """The asserts of an item with what they need: imports of MBPP+, set-up code of MBPP."""
    parts = [*doc.get("test_imports", ()), str(doc.get("test_setup_code", "")), *doc["test_list"]]
    return "\n".join(part.replace("\r\n", "\n") for part in parts if part)


def is_asked(doc: Doc) -> bool:
    """Whether an item of a whole file of MBPP is one that models are scored on."""
    return str(doc.get("task_id")).isdecimal() and int(doc["task_id"]) in TEST_SPLIT


def _names(tests: str) -> tuple[str, ...]:
    """What the tests need of a program: every name that they read and do not make."""
    table = symtable.symtable(tests, "<test>", "exec")
    read = [s.get_name() for s in table.get_symbols() if s.is_referenced() and not s.is_assigned()]
    for inner in table.get_children():
        read += [s.get_name() for s in inner.get_symbols() if s.is_global()]
    made = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    return tuple(n for n in dict.fromkeys(read) if n not in made | vars(builtins).keys())


MBPP = Task(
    name="mbpp",
    description="MBPP, 500 short functions with three tests each, 3-shot; pass@1 in the sandbox.",
    headline="pass@1",
    file="mbpp.jsonl",
    score=score,
    prompt_template='"""\n{text}\n{test_list[0]}\n{test_list[1]}\n{test_list[2]}\n"""\n',
    response_field="code",
    gold_field="test_list",
    id_field="task_id",
    asked=is_asked,
    stop=("[DONE]",),
    max_new_tokens=1024,
    config=Path(__file__).with_name("mbpp.yaml"),
    hub="google-research-datasets/mbpp",
    subsets=("full",),
    chat_prompt=(
        "{text} Answer with the whole program in one ```python block, without examples or tests. "
        "It must pass these tests:\n\n"
        "```python\n{test_list[0]}\n{test_list[1]}\n{test_list[2]}\n```"
    ),
    needs_sandbox=True,
)

MBPP_PLUS = replace(
    MBPP,
    name="mbpp_plus",
    description="MBPP+, 378 items of MBPP with 35 times the tests, 3-shot; pass@1 in the sandbox.",
    file="mbpp_plus.jsonl",
    prompt_template='"""\n{prompt}\n{test_list[0]}\n"""\n',
    gold_field="test",
    asked=None,
    config=Path(__file__).with_name("mbpp_plus.yaml"),
    hub="evalplus/mbppplus",
    subsets=("default",),
    chat_prompt=(
        "{prompt} Answer with the whole program in one ```python block, without examples or tests. "
        "It must pass this test, among others:\n\n```python\n{test_list[0]}\n```"
    ),
)
