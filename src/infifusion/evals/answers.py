"""Scorers for tasks of one's own: a number after ####, a boxed expression, a function body."""

from __future__ import annotations

import re

from infifusion.evals.tasks.task import Doc, Judgement, Judges, Task

AFTER_HASHES = re.compile(r"#### (-?\d+)")


def number_after_hashes(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """exact_match: the first integer after '#### ' is the one in the gold field.

    The gold field holds the number itself or a whole response with '#### number' in it.
    """
    gold = str(doc[task.gold_field])
    marked = AFTER_HASHES.search(gold)
    gold = marked[1] if marked else gold.strip()
    found = AFTER_HASHES.search(output)
    extracted = found[1] if found else None
    exact = extracted is not None and int(extracted) == int(gold)
    return Judgement(extracted, gold, {"exact_match": exact})


def boxed_expression(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """exact_match: the last \\boxed{...} holds the gold text, white space apart.

    The gold field holds the text itself or a whole response with a \\boxed{...} in it.
    """
    gold = str(doc[task.gold_field])
    inside = last_boxed(gold)
    gold = gold if inside is None else inside
    extracted = last_boxed(output)
    exact = extracted is not None and extracted.split() == gold.split()
    return Judgement(extracted, gold, {"exact_match": exact})


def function_body(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """pass@1: prompt + output runs, and then the code in the gold field runs, in the sandbox.

    The gold field holds the tests; the doc's field `prompt` the code that the output continues
    (a field `code_prompt` counts before it, where the model is asked in other words).
    """
    prompt = str(doc["code_prompt"] if "code_prompt" in doc else doc["prompt"])
    test = str(doc[task.gold_field])
    if not output.strip():
        return Judgement(None, test, {"pass@1": False}, note="no output")
    passed, reason = judges.run_code(prompt + output, test)
    return Judgement(output, test, {"pass@1": passed}, note="" if passed else reason)


def last_boxed(text: str) -> str | None:
    """What stands in the braces of the last \\boxed{...}; None when there is none that closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : place]
    return None
