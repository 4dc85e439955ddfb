"""HumanEval (Chen et al. 2021, arXiv 2107.03374): a function that passes its tests; HumanEval+ (Liu
et al. 2023, arXiv 2305.01210) has the same functions and some 80 times as many tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infifusion.evals.tasks.programs import Asked, program_of
from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """pass@1 of one output, in the sandbox."""
    program = program_of(output, Asked.of(str(doc["prompt"]), str(doc["entry_point"])))
    test = f"{doc['test']}\ncheck({doc['entry_point']})\n"
    passed, reason = judges.run_code(program, test) if program else (False, "no code")
    return Judgement(
        extracted=program or None,
        gold=str(doc.get("canonical_solution", "")),
        metrics={"pass@1": passed},
        note="" if passed else reason,
    )


HUMANEVAL = Task(
    name="humaneval",
    description="HumanEval, 164 functions to complete, 0-shot; pass@1 in the sandbox.",
    headline="pass@1",
    file="humaneval.jsonl",
    score=score,
    scoring=2,
    prompt_template="{prompt}",
    response_field="canonical_solution",
    gold_field="test",
    id_field="task_id",
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```"),
    max_new_tokens=1024,
    config=Path(__file__).with_name("humaneval.yaml"),
    hub="openai/openai_humaneval",
    subsets=("openai_humaneval",),
    chat_prompt=(
        "Complete this Python function. Answer with the whole function in one ```python block, "
        "without examples or tests.\n\n```python\n{prompt}```"
    ),
    needs_sandbox=True,
)

HUMANEVAL_PLUS = replace(
    HUMANEVAL,
    name="humaneval_plus",
    description="HumanEval+, the 164 functions of HumanEval with 80 times the tests; pass@1.",
    file="humaneval_plus.jsonl",
    scoring=1,
    hub="evalplus/humanevalplus",
    subsets=("default",),
)
