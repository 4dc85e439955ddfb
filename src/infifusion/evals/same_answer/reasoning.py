"""What a model thinks aloud before it answers, between <think> and </think> or marks like them."""

from __future__ import annotations

import re

# Qwen, DeepSeek and most others; OpenThinker; Kimi; Magistral; Seed; Cohere; gpt-oss, whose last
# channel is the answer.
MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "◁think▷": "◁/think▷",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}
_OPENING = "|".join(map(re.escape, MARKS))
_CLOSING = "|".join(map(re.escape, MARKS.values()))
# A program or a sentence can have the marks in quotes; behind a mark, \n and \s of a string end it,
# while \neq and \sqrt are formulas.
MARK = re.compile(
    rf"(?<![\"'])(?P<opening>{_OPENING})(?![\"'])"
    rf"|(?P<closing>{_CLOSING})(?![\"')]|`(?!`)|\\[nrst](?![a-z]))",
    re.IGNORECASE,
)
# In front of a mark in its line: it stands in a string, in a comment or in code, and opens nothing.
QUOTED = re.compile(r"\"|(?<![A-Za-z])'|`|(?:^|\s)#\s")
LONGEST_LINE = 200  # characters of a line in which that is sought
# Where a chat template ends its prompt inside the reasoning.
OPENED = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)
# What is no answer yet: the role and the tokens that begin a turn.
BEGIN_OF_TURN = re.compile(r"(?:\s|<\|[^|<>]{1,40}\|>|assistant\b)*", re.IGNORECASE)


def after_reasoning(output: str, prompt: str = "") -> str | None:
    """What stands outside the reasoning of an output; None where it never leaves it.

    prompt: exactly what the model was given; some chat templates end it with <think>. An answer
    that was begun before unfinished reasoning counts, one that was tried inside it does not. A mark
    that only closes ends reasoning that began with the output.
    """
    answers: list[list[str]] = [[]]  # the last that is not blank counts
    reasoning, begin = OPENED.search(prompt) is not None, 0
    for mark in MARK.finditer(output):
        if mark["opening"]:
            line = output[max(0, mark.start() - LONGEST_LINE) : mark.start()].rpartition("\n")[2]
            if reasoning or QUOTED.search(line):
                continue
            answers[-1].append(output[begin : mark.start()])
            if line.strip():  # in the middle of a line: what follows is an answer of its own
                answers.append([])
        elif not reasoning:
            answers = [[]]
        reasoning, begin = bool(mark["opening"]), mark.end()
    if not reasoning:
        answers[-1].append(output[begin:])
    texts = ["".join(pieces) for pieces in answers]
    for text in reversed(texts):
        if not BEGIN_OF_TURN.fullmatch(text):
            return text
    return None if reasoning else texts[-1]


def of_a_mark(token: str) -> bool:
    """Whether a special token is a mark, or part of one as <|channel|> is."""
    return len(token) > 4 and any(token in mark for pair in MARKS.items() for mark in pair)


def has_reasoning(text: str) -> bool:
    """Whether a mark of reasoning stands in a text."""
    return MARK.search(text) is not None
