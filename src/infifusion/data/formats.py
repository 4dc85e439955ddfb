"""Known forms of training data and of prompts, told by the columns where a recipe names none.

The names are those of TRL (`conversational`, `prompt-completion`) and axolotl (`sharegpt`,
`alpaca`). A format turns a record into one with `messages`, or with `prompt` and `response`, which
is what a recipe can name itself. Of columns that are no format, `likely_keys` says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from infifusion.data.lines import Record
from infifusion.errors import DataError
from infifusion.registry import nearest

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
"""ShareGPT's speakers, as the data sets in use write them, and what a chat template calls them."""
CALLERS = ("function_call", "tool_call")
"""Speakers whose words are JSON of the functions that the assistant calls."""
WRAPPED = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
"""A function's result as Hermes data writes it; templates put their own marks around it."""
PROMPTS = ("prompt", "question", "query", "problem", "instruction", "input", "text")
RESPONSES = ("response", "solution", "answer", "completion", "output", "canonical_solution", "code")
CHATS = ("messages", "conversation", "conversations", "dialogue")
"""Names that columns of no format have in the data sets in use; the first there is counts. Where a
worked solution and a bare answer stand side by side (MATH), the solution is what is learnt."""


@dataclass(frozen=True)
class Format:
    """One form of data.

    columns: what a record must have. optional: what it may have besides. fits: whether the values
    of the first record are of this form. reads: what to add to a record, so that it has `messages`
    (with messages=True), or `prompt` and `response`.
    """

    name: str
    columns: tuple[str, ...]
    fits: Callable[[Record], bool] = lambda record: True
    reads: Callable[[Record, str], Record] = lambda record, where: {}
    optional: tuple[str, ...] = ()
    messages: bool = False

    def present(self, record: Record) -> list[str]:
        """The columns that are read."""
        return [name for name in (*self.columns, *self.optional) if record.get(name) is not None]

    def read(self, record: Record, where: str) -> Record:
        """The record with `messages`, or `prompt` and `response`. DataError where a column is
        missing."""
        missing = [name for name in self.columns if record.get(name) is None]
        if missing:
            raise DataError(
                f"{where}: the file's first example is of the format {self.name}; expected the "
                f"column '{missing[0]}'.{nearest(missing[0], record)} "
                f"Columns: {', '.join(record)}."
            )
        return {**record, **self.reads(record, where)}


def recognise(record: Record, where: str, *, answered: bool = True) -> Format:
    """The one format that fits a record; answered=False: of prompts without answers. DataError,
    with the columns and the keys to write, where none does or several do."""
    formats = FORMATS if answered else PROMPT_FORMATS
    found = [one for one in formats.values() if _has(one, record)]
    if len(found) == 1:
        return found[0]
    columns = ", ".join(map(str, record)) or "none"
    response = ", response: COLUMN" if answered else ""
    keys = (
        f"Say in the recipe which columns to read: `prompt: COLUMN{response}` (or templates such "
        "as 'Q: {question}'), or `messages: COLUMN` for a list of turns."
        f"{_perhaps(record, answered)}"
    )
    if found:
        several = ", ".join(f"{one.name} ({', '.join(one.columns)})" for one in found)
        raise DataError(
            f"{where}: the columns fit more than one format: {several}. Columns: {columns}. {keys}"
        )
    known = "; ".join(f"{one.name}: {', '.join(one.columns)}" for one in formats.values())
    raise DataError(
        f"{where}: the columns fit no known format.{_nearly(record, formats)} Columns: {columns}. "
        f"{keys} Known formats: {known}."
    )


def likely_keys(record: Record, *, answered: bool = True) -> dict[str, str]:
    """The keys of a recipe's entry for a record of no format, by the names of its columns:
    `messages`, or `prompt` and (where answered) `response`. Empty where the names say nothing."""
    for name in CHATS:
        if _turns(as_turns(record.get(name)), "role"):
            return {"messages": name}
    texts = [name for name, value in record.items() if isinstance(value, str)]
    prompt = next((name for name in PROMPTS if name in texts), None)
    if prompt == "instruction" and "input" in texts:
        prompt = "{instruction}\n\n{input}"
    if prompt is None or not answered:
        return {} if prompt is None else {"prompt": prompt}
    response = next((name for name in RESPONSES if name in texts), None)
    return {} if response is None else {"prompt": prompt, "response": response}


def _perhaps(record: Record, answered: bool) -> str:
    keys = likely_keys(record, answered=answered)
    written = ", ".join(f"{k}: {v!r}" if "{" in v else f"{k}: {v}" for k, v in keys.items())
    return f" Here perhaps `{written}`." if keys else ""


def as_turns(value: Any) -> Any:
    """A list of ShareGPT's {from, value} as {role, content}; anything else as it is."""
    fits = isinstance(value, list) and all(
        isinstance(turn, Mapping) and "from" in turn and "value" in turn for turn in value
    )
    return [_as_turn(turn) for turn in value] if fits else value


def _as_turn(turn: Mapping[str, Any]) -> Record:
    speaker, said = str(turn["from"]).lower(), turn["value"]
    one = {"role": ROLES.get(speaker, turn["from"]), "content": said}
    if speaker in CALLERS:
        one |= {"content": None, "tool_calls": said}
    elif one["role"] == "tool" and isinstance(said, str) and (match := WRAPPED.fullmatch(said)):
        one["content"] = match[1]
    return one | ({"weight": turn["weight"]} if "weight" in turn else {})


def _nearly(record: Record, formats: Mapping[str, Format]) -> str:
    """What a record lacks to be of a format of which it has a column, or one of nearly its name."""
    for one in formats.values():
        lacking = [name for name in one.columns if record.get(name) is None]
        if not lacking:
            kinds = (f"'{name}' holds a {type(record[name]).__name__}" for name in one.columns)
            return f" It is not {one.name}: {', '.join(kinds)}."
        if lacking[0] in record:
            return f" For {one.name} '{lacking[0]}' is null."
        hint = nearest(lacking[0], map(str, record))
        if len(lacking) < len(one.columns) or (hint and len(one.columns) == 1):
            return f" For {one.name} there is no '{lacking[0]}'.{hint}"
    return ""


def _has(one: Format, record: Record) -> bool:
    return all(record.get(name) is not None for name in one.columns) and one.fits(record)


def _turns(value: Any, *keys: str) -> bool:
    """Whether a value is a list of turns with these keys."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and all(key in turn for key in keys) for turn in value)
    )


def _texts(*names: str) -> Callable[[Record], bool]:
    return lambda record: all(isinstance(record[name], str) for name in names)


def _sharegpt(record: Record, where: str) -> Record:
    if not _turns(record["conversations"], "from", "value"):
        raise DataError(
            f"{where}: expected conversations to be a list of one turn or more, {{from, value}} "
            f"each; found {record['conversations']!r:.80}. Leave such examples out, or correct "
            "them."
        )
    for turn in record["conversations"]:
        speaker = turn["from"]
        if str(speaker).lower() not in ROLES:
            raise DataError(
                f"{where}: conversations has a turn from {speaker!r}; known speakers: "
                f"{', '.join(ROLES)}. Leave such examples out, or rewrite them as messages."
            )
    turns = as_turns(record["conversations"])
    return {"messages": _under(record.get("system"), turns)}


def _under(system: Any, turns: list[Record]) -> list[Record]:
    """The turns under a system prompt, where the record has one and they have not."""
    if not isinstance(system, str) or not system.strip() or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]


def _alpaca(record: Record, where: str) -> Record:
    if not isinstance(record["output"], str):
        raise DataError(f"{where}: output must be a text.")
    answer = {"role": "assistant", "content": record["output"]}
    return {"messages": [*_alpaca_prompt(record, where)["messages"], answer]}


def _alpaca_prompt(record: Record, where: str) -> Record:
    asked = [record["instruction"], record.get("input") or ""]
    if not all(isinstance(text, str) for text in asked):
        raise DataError(f"{where}: instruction and input must be texts.")
    turns = [{"role": "user", "content": "\n\n".join(text for text in asked if text.strip())}]
    return {"messages": _under(record.get("system"), turns)}


def _conversational_completion(record: Record, where: str) -> Record:
    completion = record["completion"]
    if not isinstance(completion, list) or len(completion) != 1:
        raise DataError(f"{where}: completion must be a list of one message, the assistant's.")
    if not isinstance(record["prompt"], list):
        raise DataError(f"{where}: prompt must be a list of messages, as completion is.")
    return {"messages": [*record["prompt"], *completion]}


def _turns_in(column: str, *keys: str) -> Callable[[Record], bool]:
    return lambda record: _turns(record[column], *keys)


def _messages_in(column: str) -> Callable[[Record], bool]:
    """Turns with a role, and something to say or to call."""
    said = ("content", "tool_calls", "function_call")
    return lambda record: (
        _turns(record[column], "role")
        and all(any(key in turn for key in said) for turn in record[column])
    )


_CONVERSATIONAL = Format("conversational", ("messages",), _messages_in("messages"), messages=True)
_SHAREGPT = Format(
    "sharegpt",
    ("conversations",),
    _turns_in("conversations", "from", "value"),
    _sharegpt,
    optional=("system",),
    messages=True,
)
_ALPACA = Format(
    "alpaca",
    ("instruction", "output"),
    _texts("instruction", "output"),
    _alpaca,
    optional=("input", "system"),
    messages=True,
)
_COMPLETION = Format(
    "prompt-completion",
    ("prompt", "completion"),
    _texts("prompt", "completion"),
    lambda record, where: {"response": record["completion"]},
)
_CONVERSATIONAL_COMPLETION = Format(
    "conversational prompt-completion",
    ("prompt", "completion"),
    _messages_in("prompt"),
    _conversational_completion,
    messages=True,
)
_ANSWERED = (
    Format("prompt-response", ("prompt", "response")),
    _CONVERSATIONAL,
    _SHAREGPT,
    _ALPACA,
    _COMPLETION,
    _CONVERSATIONAL_COMPLETION,
)
FORMATS = {one.name: one for one in _ANSWERED}
"""Of examples: a prompt and its response."""

_ASKED = (
    Format("prompt-only", ("prompt",), _texts("prompt")),
    replace(
        _CONVERSATIONAL_COMPLETION,
        name="conversational prompt-only",
        columns=("prompt",),
        reads=lambda record, where: {"messages": record["prompt"]},
    ),
    _CONVERSATIONAL,
    _SHAREGPT,
    replace(_ALPACA, columns=("instruction",), fits=_texts("instruction"), reads=_alpaca_prompt),
)
PROMPT_FORMATS = {one.name: one for one in _ASKED}
"""Of prompts that wait for an answer; other columns are left alone."""
