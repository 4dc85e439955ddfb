"""What `check` says of data sets and prompts: which format, which columns, and one example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from infifusion.data.examples import format_of, to_example
from infifusion.data.files import first_record, is_local
from infifusion.data.formats import Format, Record
from infifusion.data.prompts import prompt_format_of, prompt_of
from infifusion.errors import DataError, InfiFusionError
from infifusion.recipe import Data, DataFile, DataSource, PromptSource, WriteResponses
from infifusion.types import Message

SHOWN = 60  # characters of a prompt and of a response
Source = TypeVar("Source", bound=DataFile)
Looked = tuple[list[str], list[str]]
"""Lines to show, and problems."""


def look_at_data(data: Data, *, ask_hub: bool) -> Looked:
    """Two lines for each data set, and what is wrong with them: the first example of each is read,
    with ask_hub from the hub too, where it can be reached."""
    parts = {"train": data.train, "held_out": data.held_out, "decontaminate": data.decontaminate}
    named = {f"data.{part}.{n}": s for part, found in parts.items() for n, s in enumerate(found)}
    return _look_at_all(named, _example, kind="examples", ask_hub=ask_hub)


def look_at_prompts(asked: WriteResponses, *, ask_hub: bool) -> Looked:
    """The same of the prompts that sources are to answer."""
    named = {f"write_responses.prompts.{n}": source for n, source in enumerate(asked.prompts)}
    return _look_at_all(named, _prompt, kind="prompts", ask_hub=ask_hub)


def _look_at_all(
    named: Mapping[str, Source],
    show: Callable[[Source, Record], tuple[str, str]],
    *,
    kind: str,
    ask_hub: bool,
) -> Looked:
    lines: list[str] = []
    problems: list[str] = []
    for where, source in named.items():
        if not ask_hub and not is_local(source):
            continue
        try:
            lines += _look_at(source, partial(show, source), kind)
        except InfiFusionError as error:
            problems.append(f"{where}: {error}")
    return lines, problems


def _look_at(source: DataFile, show: Callable[[Record], tuple[str, str]], kind: str) -> list[str]:
    try:
        first = first_record(source)
    except DataError as error:
        if is_local(source):
            raise
        return [f"  data      {source.domain}: {source.path}, not looked at: {error}"]
    if first is None:
        raise DataError(f"{source.path} holds no {kind}. Check the file, or the hub's split.")
    read, shown = show(first)
    return [f"  data      {source.domain}: {source.path}, {read}", f"            {shown}"]


def _example(source: DataSource, first: Record) -> tuple[str, str]:
    """How the columns are read, and the first example."""
    found = format_of(source, first)
    example = to_example(source, found, first, 0)
    named = {"prompt": source.prompt or "prompt", "response": source.response or "response"}
    if source.messages is not None:
        named = {"messages": source.messages}
    shown = f"{_short(_said(example.prompt))} -> {_short(example.response)}"
    return _as_read(found, first, named), shown


def _prompt(source: PromptSource, first: Record) -> tuple[str, str]:
    """The same of a prompt."""
    found = prompt_format_of(source, first)
    prompt = prompt_of(source, 0, found, 0, first)
    named = {"messages": source.messages} if source.messages else {"prompt": source.prompt or ""}
    return _as_read(found, first, named), _short(_said(prompt.messages))


def _as_read(found: Format | None, first: Record, named: Mapping[str, str]) -> str:
    if found is not None:
        return f"{found.name} ({', '.join(found.present(first))})"
    return f"as the recipe says ({', '.join(f'{key}: {name!r}' for key, name in named.items())})"


def _said(turns: Sequence[Message]) -> str:
    return " | ".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _short(text: str) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return repr(shown)
