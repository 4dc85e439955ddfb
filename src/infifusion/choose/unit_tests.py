"""An answer that passes the prompt's unit tests in the sandbox; the least uncertain of those."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from infifusion.choose.candidates import Candidate, Choice, Judges, surest
from infifusion.strict import Strict
from infifusion.types import FENCED_CODE, Prompt

DEFINES = re.compile(r"^(?:async\s+def|def|class)\s", re.MULTILINE)


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
        judges.run_code(program_of(prompt.code, candidate.response), prompt.tests)
        for candidate in candidates
    ]
    votes = tuple("passed" if passed else reason for passed, reason in outcomes)
    passing = [place for place, (passed, _) in enumerate(outcomes) if passed]
    if not passing and params.otherwise == "drop":
        return Choice(None, "no_test_passed", votes)
    return Choice(surest(candidates, passing or range(len(candidates))), "", votes)


def program_of(code: str | None, response: str) -> str:
    """The program that an answer stands for.

    The last fenced block counts in place of the text around it. With `code` (what the prompt gave),
    the answer continues it; an answer that defines functions or classes of its own comes after it,
    or stands alone where `code` is no whole program by itself.
    """
    blocks = FENCED_CODE.findall(response)
    answer = blocks[-1] if blocks else response
    if code is None:
        return answer
    if not DEFINES.search(answer):
        return code + answer
    return f"{code}\n\n{answer}" if _compiles(code) else answer


def _compiles(code: str) -> bool:
    try:
        compile(code, "<prompt>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
