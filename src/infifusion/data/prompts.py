"""Reading prompts that wait for answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infifusion.data.examples import (
    Record,
    field_of,
    id_of,
    limited,
    messages_of,
    own_names,
    read_records,
    template_fields,
)
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
        found: list[Prompt] = []
        for place, record in enumerate(read_records(source)):
            found.append(prompt_of(source, part, record, place))
        if not found:
            raise DataError(f"{source.path} holds no prompts. Check the file, or the hub's split.")
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


def prompt_of(source: PromptSource, part: int, record: Record, place: int) -> Prompt:
    """One record as a prompt; DataError where a field is missing or of another kind."""
    where = f"{source.path}, prompt {place + 1}"
    if source.messages is None:
        text = template_fields(source.prompt, record, where)
        messages = [Message(role="user", content=text)]
    else:
        messages = messages_of(field_of(record, source.messages, where), where, at_least=1)
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
