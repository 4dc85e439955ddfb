"""What a model thinks aloud before it answers, between <think> and </think>."""

from __future__ import annotations

import re

# Qwen, DeepSeek and most others; OpenThinker; Kimi; Magistral; Seed; gpt-oss, whose last channel is
# the answer.
MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "◁think▷": "◁/think▷",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}
_OPENING = "|".join(map(re.escape, MARKS))
_CLOSING = "|".join(map(re.escape, MARKS.values()))
_PAIRS = "|".join(f"{re.escape(one)}.*?{re.escape(other)}" for one, other in MARKS.items())
FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL
# Reasoning begins a line; a program may have the marks in its strings.
WHOLE = re.compile(rf"^[ \t]*(?:{_PAIRS})", FLAGS)
BEGUN = re.compile(rf"^[ \t]*(?:{_OPENING})", FLAGS)
CLOSED = re.compile(rf"(?:{_CLOSING})(?![\"')\\])", FLAGS)
# Where a chat template ends its prompt inside the reasoning.
OPENED = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)


def after_reasoning(output: str, prompt: str = "") -> str | None:
    """What stands outside the reasoning of an answer; None where it never leaves it.

    prompt: exactly what the model was given; some chat templates end it with <think>. An answer
    that was begun before unfinished reasoning counts, one that was tried inside it does not.
    """
    if OPENED.search(prompt) and not BEGUN.match(output.lstrip()):
        closed = CLOSED.search(output)
        if closed is None:
            return None
        output = output[closed.end() :]
    output = WHOLE.sub("", output)
    *_, output = CLOSED.split(output)
    begun = BEGUN.search(output)
    if begun is None:
        return output
    return output[: begun.start()] if output[: begun.start()].strip() else None
