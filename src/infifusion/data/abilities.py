"""What a chat template can write, found out by rendering conversations that are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from infifusion.types import Message

WORD = "Certainly 7."
USER: dict[str, Any] = {"role": "user", "content": "Please begin."}
CALL = {
    "id": "Abcde1234",
    "type": "function",
    "function": {"name": "find_place", "arguments": {"near": "Lisbon"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "find_place",
        "description": "Finds a place.",
        "parameters": {
            "type": "object",
            "properties": {"near": {"type": "string", "description": "A town."}},
            "required": ["near"],
        },
    },
}
Render = Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]]], str | None]
"""(turns, tools) -> the text; None where the template refuses them."""


@dataclass(frozen=True)
class CallForm:
    """How a template wants a turn that calls a function and says nothing: `content` is empty or not
    there (null, to transformers); the arguments are an object, or JSON in a text; ids of calls have
    nine letters and digits (Mistral's), or are as the data has them."""

    empty: bool
    as_text: bool
    own_ids: bool = False

    def turn(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A turn with calls, as this template reads it."""
        turn: dict[str, Any] = dict(message)
        calls = message.get("tool_calls", [])
        if self.as_text:
            turn["tool_calls"] = [
                {
                    **call,
                    "function": {
                        **call["function"],
                        "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                    },
                }
                for call in calls
            ]
        if not message["content"] and not self.empty:
            del turn["content"]
        return turn


@dataclass(frozen=True)
class Abilities:
    """system: a system message is written, left out without a word, or refused. tools: the
    functions that may be called are part of the prompt. calls: how calls are given to the template;
    None where it writes none. results: what a function gave back is written."""

    system: Literal["written", "left out", "refused"]
    tools: bool
    calls: CallForm | None
    results: bool


def abilities_of(render: Render) -> Abilities:
    """Ask a template for each kind of turn. Nothing raises: what a template refuses it cannot."""
    calls = _call_form(render)
    return Abilities(
        _system(render),
        TOOL["function"]["name"] in (render([USER], [TOOL]) or ""),  # type: ignore[index]
        calls,
        calls is not None and _results(render, calls),
    )


def _system(render: Render) -> Literal["written", "left out", "refused"]:
    text = render([{"role": "system", "content": WORD}, USER], [])
    return "refused" if text is None else "written" if WORD in text else "left out"


def _call_form(render: Render) -> CallForm | None:
    message = Message(role="assistant", content="", tool_calls=[CALL])
    for as_text in (False, True):
        for empty in (True, False):
            form = CallForm(empty, as_text)
            text = render([USER, form.turn(message)], [TOOL])
            # Behind the user's turn: the prompt may show the function, too.
            _, _, said = (text or "").rpartition(USER["content"])
            wrong = "{'near'" in said or '\\"near' in said  # Python's writing, or JSON twice
            if "find_place" in said and "Lisbon" in said and not wrong:
                longer = Message(
                    role="assistant", content="", tool_calls=[CALL | {"id": "call_0123456789"}]
                )
                own_ids = render([USER, form.turn(longer)], [TOOL]) is None
                return replace(form, own_ids=own_ids)
    return None


def _results(render: Render, form: CallForm) -> bool:
    call = form.turn(Message(role="assistant", content="", tool_calls=[CALL]))
    result = {
        "role": "tool",
        "content": WORD,
        "tool_call_id": CALL["id"],
        "name": "find_place",
    }
    return WORD in (render([USER, call, result], [TOOL]) or "")
