"""Choices on small inputs, worked out by hand."""

from __future__ import annotations

import pytest

from infifusion.choose import agreement, entropy_per_byte, unit_tests
from infifusion.choose.candidates import Candidate
from infifusion.evals import extract_program
from infifusion.types import Message, Prompt


class FakeJudges:
    """Final answers are the last word; a program passes when it holds the test's text. 1/2 is
    one half, 7 is 7.0, and else an answer is the same as itself alone."""

    def __init__(self) -> None:
        self.compared: list[tuple[str, str]] = []

    def run_code(self, program: str, test: str) -> tuple[bool, str]:
        return test in program, "wrong value"

    def final_answer(self, output: str) -> str | None:
        return output.split()[-1] if output.split() else None

    def extract_program(self, output: str, prompt: str | None) -> str:
        return extract_program(output, prompt)

    def same_answer(self, gold: str, answer: str | None) -> bool:
        self.compared.append((gold, str(answer)))
        return gold == answer or {gold, answer} in ({"1/2", r"\frac{1}{2}"}, {"7", "7.0"})


def prompt(*, tests: str | None = None, code: str | None = None) -> Prompt:
    return Prompt("d/0", "d", (Message(role="user", content="?"),), 0, tests, code)


def candidates(*rows: tuple[str, str, float]) -> list[Candidate]:
    """(source, response, entropy); a source's second row is its second sample."""
    seen: list[str] = []
    made = []
    for source, response, entropy in rows:
        made.append(Candidate(source, seen.count(source), response, entropy))
        seen.append(source)
    return made


def by_entropy(*rows: tuple[str, str, float]):
    made = candidates(*rows)
    return entropy_per_byte.entropy_per_byte(
        prompt(), made, entropy_per_byte.Params(), FakeJudges()
    )


def by_agreement(*rows: tuple[str, str, float], **params: object):
    judges = FakeJudges()
    chosen = agreement.agreement(prompt(), candidates(*rows), agreement.Params(**params), judges)
    return chosen, judges


def by_tests(*rows: tuple[str, str, float], code: str | None = None, **params: object):
    return unit_tests.unit_tests(
        prompt(tests="right", code=code),
        candidates(*rows),
        unit_tests.Params(**params),
        FakeJudges(),
    )


def test_the_lowest_entropy_per_byte_wins() -> None:
    chosen = by_entropy(("a", "x", 0.3), ("b", "y", 0.1), ("c", "z", 0.2))
    assert (chosen.winner, chosen.why, chosen.votes) == (1, "", (None, None, None))


def test_of_equally_sure_sources_the_one_named_first_wins() -> None:
    assert by_entropy(("a", "x", 0.3), ("b", "y", 0.1), ("c", "z", 0.1)).winner == 1
    assert by_entropy(("c", "z", 0.1), ("b", "y", 0.1), ("a", "x", 0.3)).winner == 0


def test_the_largest_group_beats_a_surer_single_answer_and_its_surest_member_is_kept() -> None:
    chosen, judges = by_agreement(
        ("a", "so it is 7", 0.01), ("b", "is 8", 0.3), ("c", "makes 8", 0.2)
    )
    assert (chosen.winner, chosen.votes) == (2, ("7", "8", "8"))
    assert judges.compared == [("7", "8"), ("7", "8"), ("8", "8")]


def test_answers_agree_where_the_judges_find_them_the_same() -> None:
    chosen, judges = by_agreement(("a", "8", 0.1), ("b", "7.0", 0.3), ("c", "7", 0.2))
    assert (chosen.winner, len(judges.compared)) == (2, 3)
    chosen, judges = by_agreement(("a", "1/3", 0.1), ("b", "1/2", 0.3), ("c", r"\frac{1}{2}", 0.4))
    assert chosen.winner == 1
    assert judges.compared == [("1/3", "1/2"), ("1/3", r"\frac{1}{2}"), ("1/2", r"\frac{1}{2}")]


def test_different_sources_count_before_samples_of_one_source() -> None:
    rows = [("a", "1", 0.1), ("a", "1", 0.1), ("a", "1", 0.1), ("b", "2", 0.5), ("c", "2", 0.6)]
    assert by_agreement(*rows)[0].winner == 3
    # Two sources each, then three answers against two.
    rows = [("a", "1", 0.1), ("b", "1", 0.1), ("a", "2", 0.9), ("b", "2", 0.8), ("b", "2", 0.7)]
    assert by_agreement(*rows)[0].winner == 4


def test_equal_groups_are_decided_by_the_surest_answer_then_by_the_order() -> None:
    rows = [("a", "1", 0.4), ("b", "1", 0.4), ("c", "2", 0.3), ("d", "2", 0.9)]
    assert by_agreement(*rows)[0].winner == 2
    rows = [("a", "1", 0.4), ("b", "1", 0.5), ("c", "2", 0.4), ("d", "2", 0.5)]
    assert by_agreement(*rows)[0].winner == 0


def test_without_agreement_the_surest_is_kept_or_none() -> None:
    rows = [("a", "1", 0.4), ("b", "2", 0.3), ("c", " ", 0.1)]
    assert by_agreement(*rows)[0].winner == 2
    chosen, _ = by_agreement(*rows, otherwise="drop")
    assert (chosen.winner, chosen.why, chosen.votes) == (None, "no_agreement", ("1", "2", None))


def test_answers_without_a_final_answer_agree_on_nothing() -> None:
    assert by_agreement(("a", " ", 0.4), ("b", "", 0.3), otherwise="drop")[0].winner is None


def test_a_minimum_of_one_is_a_vote_of_one_source_with_itself() -> None:
    rows = [("a", "1", 0.1), ("a", "2", 0.5), ("a", "2", 0.4)]
    assert by_agreement(*rows, minimum=1, otherwise="drop")[0].winner == 2
    assert by_agreement(*rows, minimum=2, otherwise="drop")[0].winner is None


def test_of_the_answers_that_pass_the_surest_is_kept() -> None:
    chosen = by_tests(("a", "wrong", 0.1), ("b", "right", 0.4), ("c", "right ", 0.3))
    assert (chosen.winner, chosen.votes) == (2, ("wrong value", "passed", "passed"))


def test_where_none_passes_none_is_kept_or_the_surest() -> None:
    rows = [("a", "x", 0.2), ("b", "y", 0.1)]
    chosen = by_tests(*rows)
    assert (chosen.winner, chosen.why) == (None, "no_test_passed")
    assert by_tests(*rows, otherwise="entropy").winner == 1


def test_a_prompt_without_tests_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="d/0 has no tests"):
        unit_tests.unit_tests(
            prompt(), candidates(("a", "x", 0.1)), unit_tests.Params(), FakeJudges()
        )


@pytest.mark.parametrize(
    ("code", "response", "right"),
    [
        ("def f(k):\n    return", " k + 1", True),
        (None, "def f(k):\n    return k + 1", True),
        (None, "Sure:\n```Python\ndef f(k):\n    return k + 1\n```\nThat is all.", True),
        (None, "~~~\ndef f(k):\n    return k\n~~~", False),
        # Of two variants the first one counts, as in the code tasks.
        (None, "```\ndef f(k): return k + 1\n```\nor\n```\ndef f(k): return k\n```", True),
        # What stands before the end of the reasoning is no answer.
        (None, "def f(k): return k\n</think>\ndef f(k):\n    return k + 1\n", True),
        # A whole function in place of a body; what the prompt gave stays.
        ("ONE = 1\n", "```python\ndef f(k): return k + ONE\n```", True),
        ("import math\ndef f(k):\n", "def f(k):\n    return k + int(math.cos(0))", True),
        # The prompt alone is no program, so the answer stands alone.
        ("def f(:", "def f(k): return k + 1", True),
        (None, "I do not know.", False),
    ],
)
def test_programs_are_found_in_answers_as_the_code_tasks_find_them(
    code: str | None, response: str, right: bool
) -> None:
    class Runs(FakeJudges):
        def run_code(self, program: str, test: str) -> tuple[bool, str]:
            names: dict[str, object] = {}
            try:
                exec(f"{program}\n{test}", names)
            except Exception as error:
                return False, repr(error)
            return True, ""

    found = unit_tests.unit_tests(
        prompt(tests="assert f(1) == 2", code=code),
        candidates(("a", response, 0.1)),
        unit_tests.Params(),
        Runs(),
    )
    assert (found.winner == 0) is right, found.votes
