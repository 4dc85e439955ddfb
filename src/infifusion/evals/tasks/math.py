"""MATH (Hendrycks et al. 2021, arXiv 2103.03874), whole, and its subset MATH-500."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """same_answer: the final answer says what the reference's says; beside it exact_match
    (Minerva's normal form, equal as text or by sympy) and math_verify (math-verify)."""
    solution = str(doc[task.gold_field])
    gold = judges.final_answer(solution) or ""
    extracted = judges.final_answer(output)
    same = judges.same_answer(gold, extracted)
    note = judges.math_fault()
    theirs, wanted = judges.math_answer(output), judges.math_answer(solution) or ""
    exact = theirs is not None and judges.math_equal(theirs, wanted)
    verified = judges.math_verify(solution, output)
    judges.math_fault()  # what another grader could not compare is not our verdict's fault
    return Judgement(
        extracted=extracted,
        gold=gold,
        metrics={"same_answer": same, "exact_match": exact, "math_verify": verified},
        note=note,
    )


MATH500 = Task(
    name="math500",
    description="MATH-500, 500 competition problems, 4-shot (Minerva); the final answer.",
    headline="same_answer",
    file="math500.jsonl",
    score=score,
    scoring=2,
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
