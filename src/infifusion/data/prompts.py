"""Reading prompts that wait for answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from infifusion.data.examples import (
    Record,
    field_of,
    id_of,
    limited,
    messages_of,
    own_names,
    template_fields,
)
from infifusion.data.files import read_records
from infifusion.data.formats import Format, recognise
from infifusion.errors import DataError
from infifusion.recipe import PromptSource
from infifusion.types import Message, Prompt


def read_prompts(
    sources: Sequence[PromptSource], *, seed: int
) -> tuple[list[Prompt], dict[str, int]]:
    """All prompts in the recipe's order, each once, and how many were left out: empty, duplicate.

    Raises DataError that names the file and the line or row for anything that does not fit.
    """
    prompts: list[Prompt] = []
    left_out = {"empty_prompt": 0, "duplicate_prompt": 0}
    seen: set[tuple[tuple[str, str], ...]] = set()
    for part, source in enumerate(sources):
        records = read_records(source)
        first = next(records, None)
        if first is None:
            raise DataError(f"{source.path} holds no prompts. Check the file, or the hub's split.")
        form = prompt_format_of(source, first)
        found = [prompt_of(source, part, form, *one) for one in enumerate(chain([first], records))]
        for prompt in limited(found, source, seed=seed):
            text = tuple((m["role"], m["content"]) for m in prompt.messages)
            if not any(content.strip() for _, content in text):
                left_out["empty_prompt"] += 1
            elif text in seen:
                left_out["duplicate_prompt"] += 1
            else:
                seen.add(text)
                prompts.append(prompt)
    if not prompts:
        raise DataError("write_responses: every prompt is empty.")
    names = own_names([prompt.id for prompt in prompts])
    named = [replace(prompt, id=name) for prompt, name in zip(prompts, names, strict=True)]
    return named, left_out


def prompt_format_of(source: PromptSource, first: Record) -> Format | None:
    """The format that the columns of the first record say; None where the recipe names them."""
    if source.messages is not None or source.prompt is not None:
        return None
    return recognise(first, f"{source.path}, prompt 1", answered=False)


def prompt_of(
    source: PromptSource, part: int, form: Format | None, place: int, record: Record
) -> Prompt:
    """One record as a prompt; form is its format, where the recipe names no columns. DataError
    where a field is missing or of another kind."""
    where = f"{source.path}, prompt {place + 1}"
    read = record if form is None else form.read(record, where)
    turns = source.messages if form is None else "messages" if form.messages else None
    if turns is None:
        text = template_fields(source.prompt or "prompt", read, where)
        messages = [Message(role="user", content=text)]
    else:
        messages = messages_of(field_of(read, turns, where), where, at_least=1)
        if messages[-1]["role"] == "assistant":
            raise DataError(
                f"{where}: the last message is the assistant's, so there is nothing to answer. "
                "Conversations with their answer belong in data.train."
            )
    tests, code = (
        None if text is None else template_fields(text, record, where)
        for text in (source.tests, source.code)
    )
    if tests is not None and not tests.strip():
        raise DataError(f"{where}: the tests ({source.tests}) are empty; any answer would pass.")
    return Prompt(id_of(source, record, place), source.domain, tuple(messages), part, tests, code)
