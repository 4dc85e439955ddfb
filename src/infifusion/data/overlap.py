"""Training examples that repeat one another, or an evaluation set."""

from __future__ import annotations

import re
from collections.abc import Iterable

from infifusion.data.turns import written
from infifusion.types import Example

WORD = re.compile(r"\w+")


def text_of(example: Example) -> str:
    """Everything an example says, prompt first."""
    return "\n".join([*(written(message) for message in example.prompt), example.response])


def ngrams(text: str, length: int) -> set[str]:
    """Every run of `length` words, lower-cased, punctuation dropped."""
    words = WORD.findall(text.lower())
    return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}


def without_duplicates(examples: Iterable[Example]) -> list[Example]:
    """Each prompt and response once, the first one kept."""
    seen: set[str] = set()
    kept = []
    for example in examples:
        text = text_of(example)
        if text not in seen:
            seen.add(text)
            kept.append(example)
    return kept


def without_overlap(
    examples: Iterable[Example], evaluation: Iterable[Example], *, length: int
) -> list[Example]:
    """The examples that share no n-gram of `length` words, and no whole prompt, with the other.

    The 13-gram rule of GPT-3 (arXiv 2005.14165, appendix C); prompts too short for it are compared
    whole.
    """
    forbidden: set[str] = set()
    prompts: set[str] = set()
    for example in evaluation:
        forbidden |= ngrams(text_of(example), length)
        prompts.add(_prompt(example))
    return [
        example
        for example in examples
        if _prompt(example) not in prompts
        and forbidden.isdisjoint(ngrams(text_of(example), length))
    ]


def _prompt(example: Example) -> str:
    return " ".join(WORD.findall("\n".join(m["content"] for m in example.prompt).lower()))
