"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): the number at the end of a worked solution."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task

# The two extractions of lm-eval's gsm8k task. Strict asks for the form of the training data, which
# a chat model need not know; the two can differ by 60 points on the same outputs. The headline is
# the last number of the output: it measures arithmetic, not form. lm-eval's flexible pattern needs
# no digit and takes the dots of "let me know if you need more..." for it; its figure stands apart.
STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
# A minus counts only where nothing like a number stands before it: 10-20 ends in 20.
NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)")


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """flexible: the last number of the output, compared by its value; strict: the first after
    '#### '; flexible_lm_eval: what lm-eval's own pattern takes for the last number."""
    gold = _plain_number(str(doc[task.gold_field]).rpartition("####")[2])
    strict = STRICT.search(output)
    numbers, theirs = NUMBER.findall(output), FLEXIBLE.findall(output)
    extracted = _plain_number(numbers[-1]) if numbers else None
    return Judgement(
        extracted=extracted,
        gold=gold,
        metrics={
            "flexible": extracted is not None and _equal(extracted, gold),
            "strict": strict is not None and _plain_number(strict[1]) == gold,
            "flexible_lm_eval": bool(theirs) and _plain_number(theirs[-1]) == gold,
        },
    )


def _plain_number(text: str) -> str:
    """'$1,234.' is '1234': what lm-eval's exact_match ignores, too."""
    return text.strip().replace(",", "").replace("$", "").removesuffix(".")


def _equal(left: str, right: str) -> bool:
    """Whether two numbers have one value: 29.00 is 29."""
    try:
        return Decimal(left) == Decimal(right)
    except InvalidOperation:  # a gold answer of one's own data that is no number
        return left == right


GSM8K = Task(
    name="gsm8k",
    description="GSM8K, 1,319 grade-school word problems, 5-shot; the last number of the output.",
    headline="flexible",
    file="gsm8k_test.jsonl",
    score=score,
    scoring=2,
    prompt_template="{question}\n",
    response_field="answer",
    stop=("Question:",),
    max_new_tokens=512,
    config=Path(__file__).with_name("gsm8k.yaml"),
    few_shot_file="gsm8k_train.jsonl",
    hub="openai/gsm8k",
    subsets=("main",),
)
