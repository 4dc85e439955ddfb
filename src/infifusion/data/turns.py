"""An assistant's turn that is more than a text: it calls functions, or was reasoned about first.

Each model's chat template writes such a turn in its own way. So that sources can be aligned with
the pivot at all, every such turn has a common form, a text (that of the Hermes and Qwen families);
a model's own text shares with it the runs of characters that are the same in both, and only there
are models compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from infifusion.types import Message

SHORTEST = 4
"""Characters of the shortest run that counts as shared."""
LARGEST = 1_000_000
"""Pairs of characters that are compared where no part of a turn stands word for word."""
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


class Run(NamedTuple):
    """Text that stands in a model's own writing (from `own`) and in the common form (from
    `common`) alike, `size` long."""

    own: int
    common: int
    size: int


def written(turn: Message) -> str:
    """The common form of an assistant's turn: reasoning, text, and each call as JSON."""
    reasoning = turn.get("reasoning_content", "").strip()
    text = (f"<think>\n{reasoning}\n</think>\n\n" if reasoning else "") + turn["content"]
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        name = json.dumps(function["name"], ensure_ascii=False)
        gap = "\n" if text and not text.endswith("\n") else ""
        text += (
            f'{gap}<tool_call>\n{{"name": {name}, "arguments": '
            f"{_json(function['arguments'])}}}\n</tool_call>"
        )
    return text


def parts_of(turn: Message) -> list[str]:
    """What of a turn templates write word for word, in order, where they can: reasoning, text, and
    the arguments of each call."""
    calls = turn.get("tool_calls", ())
    parts = [turn.get("reasoning_content", ""), turn["content"]]
    return [
        *(part.strip() for part in parts),
        *(_json(call["function"]["arguments"]) for call in calls),
    ]


def split_reasoning(text: str) -> Message | None:
    """A response that begins with a block of reasoning, as a turn; None for any other."""
    match = THOUGHT.match(text)
    if match is None or not match[1].strip() or not text[match.end() :].strip():
        return None
    return Message(
        role="assistant", content=text[match.end() :], reasoning_content=match[1].strip()
    )


def left_out(turn: Message, text: str) -> str | None:
    """What of a turn's text and calls a template's writing of it lacks, in words; None where it has
    everything. Reasoning may be left out."""
    if turn["content"].strip() not in text:
        return f"the text {turn['content'].strip()[:40]!r}"
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        if function["name"] not in text:
            return f"the call of {function['name']!r}"
        for leaf in _leaves(function["arguments"]):
            if not any(form in text for form in {leaf, _json(leaf)[1:-1], leaf.strip()}):
                return f"the argument {leaf[:40]!r} of {function['name']!r}"
    return None


def shared_runs(common: str, own: str, parts: Sequence[str]) -> list[Run]:
    """The runs that both texts have, in order, in characters; `parts` stand in both word for word
    wherever they can be found."""
    runs: list[Run] = []
    at_common = at_own = 0
    for part in parts:
        here, there = common.find(part, at_common), own.find(part, at_own)
        if len(part) < SHORTEST or here < 0 or there < 0:
            continue
        runs += _compared(common, at_common, here, own, at_own, there)
        runs.append(Run(there, here, len(part)))
        at_common, at_own = here + len(part), there + len(part)
    runs += _compared(common, at_common, len(common), own, at_own, len(own))
    return _joined(runs)


def in_bytes(runs: Sequence[Run], common: str, own: str) -> list[Run]:
    """The same runs, counted in UTF-8 bytes."""
    return [
        Run(
            len(own[: run.own].encode()),
            len(common[: run.common].encode()),
            len(own[run.own : run.own + run.size].encode()),
        )
        for run in runs
    ]


def _compared(
    common: str, begin: int, end: int, own: str, own_begin: int, own_end: int
) -> list[Run]:
    """The runs that two stretches share: the longest one first, then those on either side of it."""
    if (end - begin) * (own_end - own_begin) > LARGEST:
        return []
    matcher = SequenceMatcher(None, common[begin:end], own[own_begin:own_end], autojunk=False)
    return [
        Run(own_begin + block.b, begin + block.a, block.size)
        for block in matcher.get_matching_blocks()
        if block.size
    ]


def _joined(runs: list[Run]) -> list[Run]:
    """Runs that follow one another in both texts as one; those that stay short are left out."""
    joined: list[Run] = []
    for run in runs:
        if joined:
            last = joined[-1]
            if (last.own + last.size, last.common + last.size) == (run.own, run.common):
                joined[-1] = last._replace(size=last.size + run.size)
                continue
        joined.append(run)
    return [run for run in joined if run.size >= SHORTEST]


def _leaves(value: object) -> Iterator[str]:
    """The texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
