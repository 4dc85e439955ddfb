"""Examples of a data set: the fields of its records, mapped."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from infifusion.data.files import is_columnar, read_placed
from infifusion.data.formats import Format, as_turns, recognise
from infifusion.data.lines import Record
from infifusion.data.messages import messages_of, sound_text, tools_of
from infifusion.data.turns import written
from infifusion.errors import DataError
from infifusion.process.runtime import log
from infifusion.recipe import DataFile, DataSource, PromptSource
from infifusion.registry import nearest
from infifusion.types import Example, Message

Entry = TypeVar("Entry")
TURN = " · turn "
"""Between the id of a conversation and the number of one of its turns."""


def read_examples(source: DataSource, *, seed: int) -> tuple[list[Example], int]:
    """All examples of one source, and how many had an empty response (left out).

    Raises DataError that names the file and the line or row for anything that does not fit.
    """
    first, records = open_records(source)
    form = format_of(source, first)
    if form is not None:
        log.info("%s: %s (%s)", source.path, form.name, ", ".join(form.present(first)))
    examples, empty = [], 0
    for place, (where, record) in enumerate(records):
        for example in to_examples(source, form, record, place, where):
            if example.response.strip():
                examples.append(example)
            else:
                empty += 1
    return limited(examples, source, seed=seed), empty


def open_records(source: DataFile) -> tuple[Record, Iterator[tuple[str, Record]]]:
    """The first record, and all of them with the place of each; DataError where there is none."""
    records = read_placed(source)
    first = next(records, None)
    if first is None:
        raise no_records(source)
    return first[1], chain([first], records)


def no_records(source: DataFile) -> DataError:
    """The error for a file or data set without any."""
    kind = "prompts" if isinstance(source, PromptSource) else "examples"
    return DataError(f"{source.path} holds no {kind}. Check the file, or the hub's split.")


def format_of(source: DataSource | PromptSource, first: Record) -> Format | None:
    """The format that the columns of the first record say; None where the recipe names them."""
    answered = isinstance(source, DataSource)
    named = (source.messages, source.prompt, source.response if answered else None)
    if any(column is not None for column in named):
        return None
    where = f"{source.path}, {'example' if answered else 'prompt'} 1"
    return recognise(first, where, answered=answered)


def limited(entries: list[Entry], source: DataFile, *, seed: int) -> list[Entry]:
    """source.limit of the entries, chosen by the seed; in their order."""
    if source.limit is None or source.limit >= len(entries):
        return entries
    chosen = random.Random(f"{seed}:{source.path}").sample(range(len(entries)), source.limit)
    return [entries[index] for index in sorted(chosen)]


def template_fields(text: str | None, record: Record, where: str) -> str:
    """A field by name, or a template over fields such as 'Q: {question}'."""
    if text is None:
        raise DataError(f"{where}: neither prompt and response nor messages are given.")
    if "{" not in text:
        value = field_of(record, text, where)
        if not isinstance(value, str):
            raise DataError(
                f"{where}: the field '{text}' holds a {type(value).__name__}; expected text. "
                "Name a field of text, or a template over fields."
            )
        return sound_text(value, where)
    try:
        filled = text.format_map(_Fields(record, where))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where}: the template {text!r} cannot be filled in: {error}. Write a literal brace "
            "as {{ or }}."
        ) from None
    return sound_text(filled, where)


class _Fields(dict[str, Any]):
    """A record as a template sees it: a field that is not there, or null, is a DataError."""

    def __init__(self, record: Record, where: str) -> None:
        super().__init__(record)
        self._where = where

    def __getitem__(self, name: str) -> Any:
        value = field_of(dict(self), name, self._where)
        if value is None:
            raise DataError(
                f"{self._where}: the field '{name}' is null. Fill it in, or leave the record out."
            )
        return value


def field_of(record: Record, name: str, where: str) -> Any:
    """One field; DataError with the fields there are, and the nearest spelling."""
    if name not in record:
        raise DataError(
            f"{where}: there is no field '{name}'.{nearest(name, record)} "
            f"Fields: {', '.join(record)}. Name one of them in the recipe."
        )
    return record[name]


def to_examples(
    source: DataSource, form: Format | None, record: Record, place: int, where: str
) -> list[Example]:
    """One record as examples: one for its last assistant's turn, or with `train_on: all` one for
    each; form is its format, where the recipe names no columns. Turns with `weight: 0` (OpenAI's
    mark for what is not to be learnt) give none; of them all that is left is an empty response."""
    where = f"{where}, example {place + 1}"
    record = record if form is None else form.read(record, where)
    name = id_of(source, record, place)
    column = _messages_column(source, form)
    turns = turns_of(source, form, record, where)
    if column is None:
        response = template_fields(source.response or "response", record, where)
        return [Example(name, source.domain, tuple(turns), response, place=where)]
    tools = tools_in(source, record, where)
    if source.train_on == "last" and turns[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: the last message is by '{turns[-1]['role']}', not assistant. Drop that "
            "turn, say `train_on: all` to learn the assistant's turns before it, or give such "
            "records as prompts of write_responses."
        )
    raw = as_turns(record[column])
    learnt = [
        number
        for number, turn in enumerate(turns)
        if turn["role"] == "assistant" and number and raw[number].get("weight") != 0
    ]
    if source.train_on == "last":
        learnt = [number for number in learnt if number == len(turns) - 1]
    examples = []
    for number in learnt:
        answer = turns[number]
        more = "tool_calls" in answer or "reasoning_content" in answer
        own = name if len(learnt) == 1 else f"{name}{TURN}{number + 1}"
        examples.append(
            Example(
                own,
                source.domain,
                tuple(turns[:number]),
                written(answer),
                tools=tools,
                answer=answer if more else None,
                place=where,
            )
        )
    return examples or [Example(name, source.domain, tuple(turns), "", place=where)]


def conversation_of(example: Example) -> str:
    """The id of the conversation that an example is a turn of."""
    return example.id.partition(TURN)[0]


def tools_in(
    source: DataSource | PromptSource, record: Record, where: str
) -> tuple[dict[str, Any], ...]:
    """The functions of a record with messages: its column `tools`, where it has one."""
    return tools_of(record.get("tools"), where, columnar=is_columnar(source))


def _messages_column(source: DataSource | PromptSource, form: Format | None) -> str | None:
    return source.messages if form is None else "messages" if form.messages else None


def turns_of(
    source: DataSource | PromptSource, form: Format | None, record: Record, where: str
) -> list[Message]:
    """The turns of a record that form has read: those of its messages (of an example two or more),
    or one of the user with its prompt."""
    column = _messages_column(source, form)
    if column is None:
        asked = template_fields(source.prompt or "prompt", record, where)
        return [Message(role="user", content=asked)]
    at_least = 2 if isinstance(source, DataSource) else 1
    value = field_of(record, column, where)
    return messages_of(value, where, at_least=at_least, columnar=is_columnar(source))


def id_of(source: DataFile, record: Record, place: int) -> str:
    """DOMAIN/NAME: the record's own name where it has one, else its place in the file."""
    identity = record.get("id") or record.get("task_id") or record.get("unique_id")
    name = str(identity) if identity is not None else f"{Path(source.path).stem}-{place}"
    return sound_text(f"{source.domain}/{name}", f"{source.path}, record {place + 1}, id")


def own_names(names: list[str]) -> list[str]:
    """The same names; one that stands again gets a number that no other has."""
    taken = set(names)
    used: set[str] = set()
    times: Counter[str] = Counter()
    own = []
    for name in names:
        mine = name
        while mine in used or (mine != name and mine in taken):
            times[name] += 1
            mine = f"{name}#{times[name] + 1}"
        used.add(mine)
        own.append(mine)
    return own
