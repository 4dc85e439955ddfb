"""What `check` says of data sets and prompts: which format, which columns, and one example; and the
first examples, which the models are then to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from infifusion.data.examples import format_of, no_records, to_examples
from infifusion.data.files import first_records, is_local
from infifusion.data.prompts import prompt_of
from infifusion.data.turns import written
from infifusion.errors import DataError, InfiFusionError
from infifusion.recipe import Data, DataSource, PromptSource, WriteResponses
from infifusion.types import Example, Message

SHOWN = 60  # characters of a prompt and of a response
LOOKED_AT = 200
"""Examples of each data set that are read."""
PROBE = "yes"
"""Stands for the answer to a prompt that waits for one."""


class Looked(NamedTuple):
    """Lines to show, problems, and the examples that were read."""

    lines: list[str]
    problems: list[str]
    examples: list[Example]


def look_at_data(data: Data, *, ask_hub: bool, offline: bool = False) -> Looked:
    """Two lines for each data set, and what is wrong with them: the first examples of each are
    read, with ask_hub from the hub too. offline: of the hub's what cannot be read is no problem."""
    parts = {
        "train": data.train,
        "prompts": data.prompts,
        "held_out": data.held_out,
        "decontaminate": data.decontaminate,
    }
    named = {f"data.{part}.{n}": s for part, found in parts.items() for n, s in enumerate(found)}
    return _look_at_all(named, ask_hub, offline)


def look_at_prompts(asked: WriteResponses, *, ask_hub: bool, offline: bool = False) -> Looked:
    """The same of the prompts that sources are to answer."""
    named = {f"write_responses.prompts.{n}": source for n, source in enumerate(asked.prompts)}
    return _look_at_all(named, ask_hub, offline)


def _look_at_all(
    named: Mapping[str, DataSource | PromptSource], ask_hub: bool, offline: bool
) -> Looked:
    looked = Looked([], [], [])
    for where, source in named.items():
        if not ask_hub and not is_local(source):
            continue
        try:
            lines, examples = _look_at(source, offline)
        except InfiFusionError as error:
            looked.problems.append(f"{where}: {error}")
            continue
        looked.lines.extend(lines)
        if not where.startswith("data.decontaminate"):  # which no model is given
            looked.examples.extend(examples)
    return looked


def _look_at(source: DataSource | PromptSource, offline: bool) -> tuple[list[str], list[Example]]:
    """(how the columns are read and the first example or prompt, the first examples)."""
    try:
        records = list(islice(first_records(source), LOOKED_AT))
    except DataError as error:
        if is_local(source):
            raise
        if not offline:
            raise DataError(f"{error} `infifusion check --offline` leaves it unseen.") from error
        return [f"  data      {source.domain}: {source.path}, not looked at: {error}"], []
    if not records:
        raise no_records(source)
    first = records[0][1]
    form = format_of(source, first)
    examples: list[Example] = []
    named = {"prompt": source.prompt or "prompt"}
    if isinstance(source, DataSource):
        for place, (where, record) in enumerate(records):
            examples += to_examples(source, form, record, place, where)
        shown = f"{_short(_said(examples[0].prompt))} -> {_short(examples[0].response)}"
        named["response"] = source.response or "response"
    else:
        for place, (where, record) in enumerate(records):
            prompt = prompt_of(source, 0, form, place, record, where)
            examples.append(Example(prompt.id, prompt.domain, prompt.messages, PROBE, place=where))
        shown = _short(_said(examples[0].prompt))
    if source.messages is not None:
        named = {"messages": source.messages}
    if form is not None:
        read = f"{form.name} ({', '.join(form.present(first))})"
    else:
        columns = ", ".join(f"{key}: {name!r}" for key, name in named.items())
        read = f"as the recipe says ({columns})"
    lines = [f"  data      {source.domain}: {source.path}, {read}", f"            {shown}"]
    return lines, [example for example in examples if example.response.strip()]


def _said(turns: Sequence[Message]) -> str:
    return " | ".join(f"{turn['role']}: {written(turn)}" for turn in turns)


def _short(text: str) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return repr(shown)
