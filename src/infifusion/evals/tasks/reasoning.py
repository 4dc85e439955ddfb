"""What a model thinks aloud before it answers, between <think> and </think>."""

from __future__ import annotations

import re

NAMES = "think|thinking|reasoning|thought"
# It begins a line; a program may have the marks in its strings.
WHOLE = re.compile(rf"^[ \t]*<({NAMES})>.*?</\1>", re.DOTALL | re.IGNORECASE | re.MULTILINE)
BEGUN = re.compile(rf"^[ \t]*<(?:{NAMES})>", re.IGNORECASE | re.MULTILINE)
CLOSED = re.compile(rf"</(?:{NAMES})>(?![\"')\\])", re.IGNORECASE)
# Where a chat template ends its prompt inside the reasoning.
OPENED = re.compile(rf"<(?:{NAMES})>\s*\Z", re.IGNORECASE)


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
