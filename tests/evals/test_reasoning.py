"""What stands outside the reasoning of an output, for every task and for the public functions."""

from __future__ import annotations

import time

import pytest

import infifusion
from infifusion.evals.same_answer.reasoning import MARKS, after_reasoning


@pytest.mark.parametrize(("opening", "closing"), MARKS.items(), ids=MARKS.values())
def test_an_answer_stands_behind_the_reasoning(opening: str, closing: str) -> None:
    for around in ("{}", "\n  {}", "<|start|>assistant{}"):
        thought = around.format(f"{opening}So 9.")
        assert after_reasoning(f"{thought}{closing}5").strip() == "5"
        assert after_reasoning(thought) is None
        assert after_reasoning(f"{thought}{closing}").strip() == ""
    assert after_reasoning(f"9{closing}\n5") == "\n5", "opened by the prompt, or left out"
    prompt = f"<|im_start|>assistant\n{opening}\n"
    assert after_reasoning("5", prompt) is None
    assert after_reasoning(f"9{closing}5", prompt) == "5"
    assert after_reasoning(f"{opening}9{closing}5", prompt) == "5", "opened twice"
    assert after_reasoning("5", f"{opening}\n\n{closing}\n\n") == "5", "closed by the prompt"


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("5", "5"),
        ("", ""),
        (r"<think>9</think>\boxed{5}", r"\boxed{5}"),
        (r"<think>9</think>\neq 5", r"\neq 5"),
        ("<think>9</think>```python", "```python"),
        ("<think>a</think>5<think>b</think>6", "6"),
        ("<think>a</think>b</think>5", "5"),
        ("<think>a<think>b</think>5", "5"),
        ("It is 5.\n<think>Is it 6?", "It is 5.\n"),
        (r"It is 5. <think>\boxed{6}", "It is 5. "),
        ("It is 5. <think>Yes.</think>\n", "It is 5. "),
        ("It is 5.\n<think>Yes.</think>\nSo 5.", "It is 5.\n\nSo 5."),
        ("Let's see. <think>6", "Let's see. "),
        ("<thinking>9</think>5", "5"),
        ('s = "<think>x</think>"\nt = 1', 's = "<think>x</think>"\nt = 1'),
        (r's = re.sub(r"^<think>.*?</think>\s*", "", s)', None),
        (r's = f"{s}\n<think>\n"', None),
        ("s = s.strip()  # <think> goes\nreturn s", None),
        ("The tag `<think>` opens, `</think>` closes.", None),
    ],
)
def test_marks_in_other_places(output: str, answer: str | None) -> None:
    """None: nothing is taken away."""
    assert after_reasoning(output) == (output if answer is None else answer)


def test_the_public_functions_leave_it_out() -> None:
    assert infifusion.final_answer(r"Okay. <think>\boxed{6}") is None
    assert infifusion.final_answer(r"<think>\boxed{6}</think>\boxed{5}") == "5"
    assert infifusion.same_answer("5", "<think>6</think>5")
    assert not infifusion.same_answer("6", "<think>6</think>5")
    body = "    return x\n"
    found = infifusion.extract_program(f"    return 9\n</think>{body}", "def f(x):\n<think>\n")
    assert found == f"def f(x):\n{body}"
    assert infifusion.extract_program(body, "def f(x):\n") == f"def f(x):\n{body}"
    assert infifusion.extract_program(body, "Write f.\n<think>\n") == ""


def test_it_takes_linear_time() -> None:
    for text in ("<think>\n", "<think>", "</think>", "<think></think>", "x <think></think>", " "):
        started = time.process_time()
        after_reasoning(text * ((1 << 20) // len(text)))
        assert time.process_time() - started < 5, text  # a second, or minutes if it were not
