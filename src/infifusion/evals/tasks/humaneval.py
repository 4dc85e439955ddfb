"""HumanEval (Chen et al. 2021, arXiv 2107.03374): a function that passes its tests."""

from __future__ import annotations

import re
from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task
from infifusion.types import FENCED_CODE


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """pass@1 of one greedy output, in the sandbox."""
    program = program_of(str(doc["prompt"]), output, str(doc["entry_point"]))
    test = f"{doc['test']}\ncheck({doc['entry_point']})\n"
    passed, reason = judges.run_code(program, test) if output.strip() else (False, "no output")
    return Judgement(
        extracted=program if output.strip() else None,
        gold=str(doc.get("canonical_solution", "")),
        metrics={"pass@1": passed},
        note="" if passed else reason,
    )


def program_of(prompt: str, output: str, entry_point: str) -> str:
    """The program that an output stands for.

    A fenced block counts in place of the text around it (the last one that defines the function,
    else the first). Code that defines the function itself comes after the prompt, whose imports
    and helper functions it may use; anything else continues the prompt. A block that is a bare
    body at column 0 is not repaired.
    """
    blocks = FENCED_CODE.findall(output)
    defines = re.compile(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\b", re.MULTILINE)
    defining = [block for block in blocks if defines.search(block)]
    code = defining[-1] if defining else blocks[0] if blocks else output
    if defines.search(code):
        # The prompt ends in a docstring, which is a whole function body.
        return f"{prompt}\n    pass\n\n{code}"
    return prompt + code


HUMANEVAL = Task(
    name="humaneval",
    description="HumanEval, 164 functions to complete, 0-shot; pass@1 in the sandbox.",
    headline="pass@1",
    file="humaneval.jsonl",
    score=score,
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
