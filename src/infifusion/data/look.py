"""What `check` says of data sets and prompts: which format, which columns, and one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infifusion.data.examples import format_of, no_records, to_examples
from infifusion.data.files import first_record, is_local
from infifusion.data.prompts import prompt_of
from infifusion.data.turns import written
from infifusion.errors import DataError, InfiFusionError
from infifusion.recipe import Data, DataSource, PromptSource, WriteResponses
from infifusion.types import Message

SHOWN = 60  # characters of a prompt and of a response
Looked = tuple[list[str], list[str]]
"""Lines to show, and problems."""


def look_at_data(data: Data, *, ask_hub: bool) -> Looked:
    """Two lines for each data set, and what is wrong with them: the first example of each is read,
    with ask_hub from the hub too, where it can be reached."""
    parts = {"train": data.train, "held_out": data.held_out, "decontaminate": data.decontaminate}
    named = {f"data.{part}.{n}": s for part, found in parts.items() for n, s in enumerate(found)}
    return _look_at_all(named, ask_hub)


def look_at_prompts(asked: WriteResponses, *, ask_hub: bool) -> Looked:
    """The same of the prompts that sources are to answer."""
    named = {f"write_responses.prompts.{n}": source for n, source in enumerate(asked.prompts)}
    return _look_at_all(named, ask_hub)


def _look_at_all(named: Mapping[str, DataSource | PromptSource], ask_hub: bool) -> Looked:
    lines: list[str] = []
    problems: list[str] = []
    for where, source in named.items():
        if not ask_hub and not is_local(source):
            continue
        try:
            lines += _look_at(source)
        except InfiFusionError as error:
            problems.append(f"{where}: {error}")
    return lines, problems


def _look_at(source: DataSource | PromptSource) -> list[str]:
    """How the columns are read, and the first example or prompt."""
    try:
        first = first_record(source)
    except DataError as error:
        if is_local(source):
            raise
        return [f"  data      {source.domain}: {source.path}, not looked at: {error}"]
    if first is None:
        raise no_records(source)
    form = format_of(source, first)
    named = {"prompt": source.prompt or "prompt"}
    if isinstance(source, DataSource):
        example = to_examples(source, form, first, 0, source.path)[0]
        shown = f"{_short(_said(example.prompt))} -> {_short(example.response)}"
        named["response"] = source.response or "response"
    else:
        shown = _short(_said(prompt_of(source, 0, form, 0, first, source.path).messages))
    if source.messages is not None:
        named = {"messages": source.messages}
    if form is not None:
        read = f"{form.name} ({', '.join(form.present(first))})"
    else:
        columns = ", ".join(f"{key}: {name!r}" for key, name in named.items())
        read = f"as the recipe says ({columns})"
    return [f"  data      {source.domain}: {source.path}, {read}", f"            {shown}"]


def _said(turns: Sequence[Message]) -> str:
    return " | ".join(f"{turn['role']}: {written(turn)}" for turn in turns)


def _short(text: str) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return repr(shown)
