"""An answer that passes the prompt's unit tests in the sandbox; the least uncertain of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from infifusion.choose.candidates import Candidate, Choice, Judges, surest
from infifusion.strict import Strict
from infifusion.types import Prompt


class Params(Strict):
    """Parameters of `unit_tests`."""

    otherwise: Literal["drop", "entropy"] = "drop"
    """Where no answer passes: keep none, or the least uncertain of all answers."""


def unit_tests(
    prompt: Prompt, candidates: Sequence[Candidate], params: Params, judges: Judges
) -> Choice:
    """Every answer is run with the prompt's tests; the surest of those that pass is kept.

    Answers are compared by entropy per byte, then by the recipe's order. Raises ValueError where
    the prompt has no tests: any answer would pass.
    """
    if prompt.tests is None:
        raise ValueError(f"{prompt.id} has no tests; name their field in `tests` of its prompts.")
    outcomes = [
        judges.run_code(_program(prompt, candidate.response, judges), prompt.tests)
        for candidate in candidates
    ]
    votes = tuple("passed" if passed else reason for passed, reason in outcomes)
    passing = [place for place, (passed, _) in enumerate(outcomes) if passed]
    if not passing and params.otherwise == "drop":
        return Choice(None, "no_test_passed", votes)
    return Choice(surest(candidates, passing or range(len(candidates))), "", votes)


def _program(prompt: Prompt, response: str, judges: Judges) -> str:
    """The program that an answer stands for: what the code tasks would judge of it, after the code
    that the prompt gave, where that is a whole program which the answer does not repeat."""
    code = prompt.code or ""
    if code.strip() and not code.endswith("\n") and _compiles(code + response):
        return code + response  # it goes on in the middle of a line
    program = judges.extract_program(response, code or prompt.tests) or code + response
    given = code.strip()
    return f"{code}\n\n{program}" if given not in program and _compiles(code) else program


def _compiles(code: str) -> bool:
    try:
        compile(code, "<prompt>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
