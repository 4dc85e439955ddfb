from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from infifusion.demo.domains import DOMAINS, Problem, code_test, drills, problems, split_of

SPLITS = ("train", "validation", "test")


def run(program: str, test: str) -> bool:
    """Whether our own, harmless program passes its test."""
    namespace: dict = {}
    try:
        exec(program + "\n" + test, namespace)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_key_stands_in_two_splits(domain: str):
    keys = {split: {p.key for p in problems(domain, split, 1500, seed=1)} for split in SPLITS}
    assert all(keys[split] for split in SPLITS)
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_key_decides_its_split_whatever_the_seed(domain: str):
    for split in SPLITS:
        for problem in problems(domain, split, 50, seed=9):
            assert split_of(problem.key) == split


@pytest.mark.parametrize("domain", DOMAINS)
def test_test_prompts_without_names_and_letters_are_not_among_training_prompts(domain: str):
    def surface(problem: Problem) -> str:
        """The prompt with everything that a key leaves out replaced."""
        text = re.sub(r"\b(Ben|Ana|Tom|Eva|Max|Lea|Sam|Ida)\b", "NAME", problem.prompt)
        text = re.sub(r"\b(coins|books|cards|pens|cups|nuts|keys|hats)\b", "THING", text)
        if domain == "sym":
            text = re.sub(r"(?<![a-z])(\d*)[xytn](?![a-z])", r"\1LETTER", text)
        if domain == "code":
            text = re.sub(r"(?<=f\()[kmaz]|(?<=Take )[kmaz]\b|(?<=of )[kmaz]\b", "ARG", text)
        return text

    trained = {surface(p) for p in problems(domain, "train", 3000, seed=2)}
    trained |= {surface(p) for p in drills(domain, 2000, seed=2)}
    tested = {surface(p) for p in problems(domain, "test", 300, seed=3)}
    assert len(tested) > 120
    assert not trained & tested


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_same_seed_gives_the_same_problems_and_another_seed_others(domain: str):
    assert problems(domain, "train", 40, seed=5) == problems(domain, "train", 40, seed=5)
    assert problems(domain, "train", 40, seed=5) != problems(domain, "train", 40, seed=6)


def test_a_word_solution_does_the_arithmetic_of_its_story():
    made = [*problems("word", "train", 600, seed=0), *drills("word", 300, seed=0)]
    for problem in made:
        steps = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", problem.response)
        assert steps
        for left, sign, right, result in steps:
            assert {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](
                int(left), int(right)
            ) == int(result)
        assert problem.response.endswith(f"#### {problem.answer}")
        assert steps[-1][3] == problem.answer
        # The numbers of the story, each used once.
        used = [steps[0][0], steps[0][2], *(step[2] for step in steps[1:])]
        assert used == re.findall(r"\d+", problem.prompt)


def test_a_sym_answer_solves_its_problem():
    kinds: dict[str, Callable[[Problem, list[int]], bool]] = {
        "solve": lambda p, n: n[0] * int(p.answer) + n[1] - n[2] == n[3],
        "value": lambda p, n: n[0] * n[3] + n[1] - n[2] == int(p.answer),
        "simplify": lambda p, n: n[0] + n[1] - n[2] + n[3] == int(p.answer[:-1]),
        "add": lambda p, n: n[0] + n[1] == int(p.answer),
        "subtract": lambda p, n: n[0] - n[1] == int(p.answer),
        "times": lambda p, n: n[0] * n[1] == int(p.answer),
        "divide": lambda p, n: n[0] == n[1] * int(p.answer),
    }
    made = [*problems("sym", "train", 400, seed=0), *drills("sym", 800, seed=0)]
    seen = set()
    for problem in made:
        kind = problem.key.split(":")[1]
        seen.add(kind)
        assert kinds[kind](problem, [int(n) for n in re.findall(r"\d+", problem.prompt)])
        assert problem.response.endswith(f"\\boxed{{{problem.answer}}}")
        for left, result in re.findall(r"([\d*/+ -]+\d) = (\d+)", problem.response):
            assert eval(left) == int(result)
    assert seen == kinds.keys()


def test_reference_functions_pass_their_tests_and_do_what_the_docstring_says():
    for problem in problems("code", "test", 200, seed=0):
        assert run(problem.prompt + problem.response, code_test(problem))
    chain = next(p for p in problems("code", "test", 200, seed=0) if ":chain:add:times:" in p.key)
    # (a + n) * m: without the brackets the value would be another one.
    n, m = (int(x) for x in chain.key.split(":")[-2:])
    namespace: dict = {}
    exec(chain.prompt + chain.response, namespace)
    assert namespace["f"](10) == (10 + n) * m


def test_a_function_that_returns_another_type_or_value_fails():
    problem = next(p for p in problems("code", "test", 200, seed=0) if ":chain:" in p.key)
    assert not run(problem.prompt + f" float({problem.answer})", code_test(problem))
    assert not run(problem.prompt + f" {problem.answer} + 1", code_test(problem))


@pytest.mark.parametrize("domain", DOMAINS)
def test_noise_is_the_share_of_solutions_that_are_wrong(domain: str):
    clean = problems(domain, "train", 600, seed=4)
    noisy = problems(domain, "train", 600, seed=4, noise=0.4)
    # Names, keys and order do not depend on the noise: only the solutions do.
    assert [p.prompt for p in clean] == [p.prompt for p in noisy]
    wrong = sum(a.response != b.response for a, b in zip(clean, noisy, strict=True)) / 600
    # 0.4, binomial standard error sqrt(0.4 * 0.6 / 600) = 0.02; a changed part always shows.
    assert 0.33 < wrong < 0.47
    if domain == "code":
        # Some changes are harmless: the length of a mapped list, say.
        failing = sum(not run(p.prompt + p.response, code_test(c)) for p, c in
                      zip(noisy, clean, strict=True))  # fmt: skip
        assert 0.25 < failing / 600 < 0.45
    else:
        assert sum(a.answer != b.answer for a, b in zip(clean, noisy, strict=True)) / 600 > 0.25


def test_drills_are_single_steps_that_no_test_asks_for():
    for domain in ("word", "sym"):
        asked = {p.prompt for s in ("test", "validation") for p in problems(domain, s, 400, seed=1)}
        drilled = drills(domain, 400, seed=1)
        assert len(drilled) == 400
        assert not asked & {p.prompt for p in drilled}
    assert drills("code", 10, seed=1) == []
