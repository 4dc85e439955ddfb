"""The turns of a record as messages: OpenAI's and ShareGPT's manners, functions and their calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infifusion.data.formats import as_turns
from infifusion.data.lines import Record
from infifusion.errors import DataError
from infifusion.types import Message

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of what was thought before an answer, as transformers reads them."""


def messages_of(value: Any, where: str, *, at_least: int, columnar: bool = False) -> list[Message]:
    """A list of turns, {role, content} or ShareGPT's {from, value}; DataError where it is none, or
    shorter than `at_least`.

    content may be a list of text parts, or null beside tool_calls. function_call (OpenAI's former
    name) is a call, too. columnar: the record comes from a table whose columns have one type, which
    writes null for every key that other records have.
    """
    value = as_turns(value)
    if not isinstance(value, list) or len(value) < at_least:
        raise _no_messages(where, at_least)
    return [_message(turn, where, at_least, columnar) for turn in value]


def tools_of(value: Any, where: str, *, columnar: bool = False) -> tuple[dict[str, Any], ...]:
    """The functions that may be called: a list of JSON schemas, or the same as JSON in a text.
    DataError where it is neither, or one has no name."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError as error:
            raise DataError(f"{where}: tools is a text that is not JSON: {error}.") from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"{where}: tools holds a {type(value).__name__}; expected a list of functions, each "
            'such as {"type": "function", "function": {"name": ..., "parameters": ...}}.'
        )
    tools = []
    for tool in value:
        tool = _without_nulls(tool) if columnar else tool
        if isinstance(tool, Mapping) and "function" not in tool and "name" in tool:
            tool = {"type": "function", "function": tool}  # the function alone
        if not isinstance(tool, Mapping) or not isinstance(_of(tool, "function").get("name"), str):
            raise DataError(
                f"{where}: one of its tools is {str(tool)[:80]!r}; expected "
                '{"type": "function", "function": {"name": ..., "parameters": ...}}.'
            )
        tools.append(dict(tool))
    return tuple(tools)


def _message(turn: Any, where: str, at_least: int, columnar: bool) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        raise _no_messages(where, at_least)
    calls = _calls(turn, where, columnar)
    content = _content(turn.get("content"), where)
    if content is None and not calls:
        raise _no_messages(where, at_least)
    role = "tool" if turn["role"] == "function" else turn["role"]
    message = Message(role=sound_text(role, where), content=sound_text(content or "", where))
    reasoning = next((turn[key] for key in REASONING if turn.get(key)), None)
    if isinstance(reasoning, str) and reasoning.strip() and role == "assistant":
        message["reasoning_content"] = sound_text(reasoning, where)
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        if isinstance(turn.get("name"), str):
            message["name"] = turn["name"]
        if isinstance(turn.get("tool_call_id"), str):
            message["tool_call_id"] = turn["tool_call_id"]
    return message


def _content(value: Any, where: str) -> str | None:
    """A text; of a list of parts their texts, end to end."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(
            f"{where}: a message's content is a {type(value).__name__}; expected a text, or a list "
            'of parts such as {"type": "text", "text": ...}.'
        )
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(
                f"{where}: a message has a part of the type {kind!r}; only text is read. Leave "
                "such examples out."
            )
        texts.append(text)
    return "".join(texts)


def _calls(turn: Mapping[str, Any], where: str, columnar: bool) -> list[dict[str, Any]]:
    value = turn.get("tool_calls") or []
    if turn.get("function_call"):
        value = [turn["function_call"]]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: a call of functions is not JSON: {error}.") from None
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list):
        raise DataError(f"{where}: tool_calls holds a {type(value).__name__}; expected a list.")
    calls = []
    for call in value:
        whole = _of({"call": call}, "call")
        function = _of(whole, "function") or whole
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{where}: a call is {str(call)[:80]!r}; expected "
                '{"type": "function", "function": {"name": ..., "arguments": ...}}.'
            )
        given = function.get("arguments", function.get("parameters"))
        arguments = _arguments(given, f"{where}: the call of {name!r}")
        one: dict[str, Any] = {
            "type": "function",
            "function": {
                "name": sound_text(name, where),
                "arguments": _without_nulls(arguments) if columnar else arguments,
            },
        }
        if isinstance(whole.get("id"), str):
            one["id"] = whole["id"]
        calls.append(one)
    if calls and turn["role"] != "assistant":
        raise DataError(
            f"{where}: a message by '{turn['role']}' calls functions; only an assistant's can."
        )
    return calls


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """An object, or JSON of one in a text, as OpenAI writes it."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError as error:
            raise DataError(f"{where} has arguments that are not JSON: {error}.") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(
            f"{where} has arguments of the type {type(value).__name__}; expected an object."
        )
    sound_text(json.dumps(value, ensure_ascii=False), where)
    return dict(value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nulls(one) for k, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _of(values: Mapping[str, Any], key: str) -> Record:
    found = values.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _no_messages(where: str, at_least: int) -> DataError:
    return DataError(
        f"{where}: expected a list of {at_least} or more messages, each with the texts 'role' and "
        "'content' (or tool_calls). Rewrite the record, or leave it out."
    )


def sound_text(text: str, where: str) -> str:
    """The text; DataError where it holds half of a surrogate pair, which no UTF-8 file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start + 1} is half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x}), which stands for no character. Write the "
            "character whole, or remove it."
        ) from None
    return text
