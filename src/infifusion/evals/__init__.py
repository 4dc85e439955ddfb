"""Evaluation: lm-evaluation-harness with our task files, the code sandbox, paired statistics."""

from infifusion.evals.same_answer.reasoning import OPENED, after_reasoning
from infifusion.evals.tasks.programs import Asked, program_of

__all__ = ["extract_program"]


def extract_program(output: str, prompt: str | None = None) -> str:
    """The Python program in a model's answer: imports, helpers and the function that is asked.

    prompt: what was asked: code that the answer continues or repeats (HumanEval), or words that
        name the function, such as tests with `assert` (MBPP). None: all that the answer defines.
        Where it ends with <think>, the output begins inside the reasoning.

    Fences of any kind, prose, a repeated signature, a bare body, several variants (the first
    counts, or one that is announced as its correction), examples of use and tests are dealt with;
    what stands before </think> is no answer. Where the asked function does not compile, the code
    is given back as it stands. Empty where there is no code.
    """
    answer = after_reasoning(output, prompt or "") or ""
    return program_of(answer, Asked.of(OPENED.sub("", prompt or "")))
