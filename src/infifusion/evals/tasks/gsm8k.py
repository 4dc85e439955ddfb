"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): the number at the end of a worked solution."""

from __future__ import annotations

import re
from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task

# The two extractions of lm-eval's gsm8k task. Strict asks for the form of the training data, which
# a chat model need not know; flexible needs no digit and takes the dots of "let me know if you need
# more..." for the last number. The headline is the final answer by its meaning: it measures
# arithmetic, not form.
STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """same_answer: the final answer says what the reference's says; strict: the first number after
    '#### '; flexible_lm_eval: what lm-eval's own pattern takes for the last number."""
    gold = str(doc[task.gold_field]).rpartition("####")[2].strip()
    extracted = judges.final_answer(output)
    same = judges.same_answer(gold, extracted)
    strict, theirs = STRICT.search(output), FLEXIBLE.findall(output)
    return Judgement(
        extracted=extracted,
        gold=gold,
        metrics={
            "same_answer": same,
            "strict": strict is not None and _plain_number(strict[1]) == _plain_number(gold),
            "flexible_lm_eval": bool(theirs) and _plain_number(theirs[-1]) == _plain_number(gold),
        },
        note=judges.math_fault(),
    )


def _plain_number(text: str) -> str:
    """'$1,234.' is '1234': what lm-eval's exact_match ignores, too."""
    return text.strip().replace(",", "").replace("$", "").removesuffix(".")


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
