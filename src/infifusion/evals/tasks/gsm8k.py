"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): the number at the end of a worked solution."""

from __future__ import annotations

from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """same_answer: the final answer says what the reference's says. It measures arithmetic, not
    form."""
    gold = str(doc[task.gold_field]).rpartition("####")[2].strip()
    extracted = judges.final_answer(output)
    same = judges.same_answer(gold, extracted)
    return Judgement(
        extracted=extracted,
        gold=gold,
        metrics={"same_answer": same},
        note=judges.math_fault(),
    )


GSM8K = Task(
    name="gsm8k",
    description="GSM8K, 1,319 grade-school word problems, 5-shot; the final answer.",
    headline="same_answer",
    file="gsm8k_test.jsonl",
    score=score,
    scoring=3,
    prompt_template="{question}\n",
    response_field="answer",
    stop=("Question:",),
    max_new_tokens=512,
    config=Path(__file__).with_name("gsm8k.yaml"),
    few_shot_file="gsm8k_train.jsonl",
    hub="openai/gsm8k",
    subsets=("main",),
)
