"""MATH (Hendrycks et al. 2021, arXiv 2103.03874), whole, and its subset MATH-500."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """exact_match: Minerva's normal form, equal as text or by sympy; math_verify: math-verify.

    The headline is exact_match, which is what MATH is published with.
    """
    solution = str(doc[task.gold_field])
    gold = judges.math_answer(solution) or ""
    extracted = judges.math_answer(output)
    exact = extracted is not None and judges.math_equal(extracted, gold)
    verified = judges.math_verify(solution, output)
    return Judgement(
        extracted=extracted,
        gold=gold,
        metrics={"exact_match": exact, "math_verify": verified},
        note=judges.math_fault(),
    )


MATH500 = Task(
    name="math500",
    description="MATH-500, 500 competition problems, 4-shot (Minerva); the final answer.",
    headline="exact_match",
    file="math500.jsonl",
    score=score,
    prompt_template="{problem}\n",
    response_field="solution",
    gold_field="solution",
    id_field="unique_id",
    stop=("Problem:",),
    max_new_tokens=1024,
    config=Path(__file__).with_name("math.yaml"),
    hub="HuggingFaceH4/MATH-500",
)

MATH = replace(
    MATH500,
    name="math",
    description="MATH, all 5,000 test problems, 4-shot (Minerva); the final answer.",
    file="math_test.jsonl",
    id_field=None,
    hub="EleutherAI/hendrycks_math",
    subsets=(
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    ),
)
