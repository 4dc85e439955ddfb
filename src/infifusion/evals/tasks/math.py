"""MATH (Hendrycks et al. 2021, arXiv 2103.03874), whole, and its subset MATH-500."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """same_answer: the final answer says what the reference's says."""
    gold = judges.final_answer(str(doc[task.gold_field])) or ""
    extracted = judges.final_answer(output)
    same = judges.same_answer(gold, extracted)
    return Judgement(
        extracted=extracted,
        gold=gold,
        metrics={"same_answer": same},
        note=judges.math_fault(),
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
