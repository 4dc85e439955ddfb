"""Prompts that wait for answers: which there are, who answers, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infifusion.data.examples import (
    format_of,
    id_of,
    limited,
    open_records,
    own_names,
    template_fields,
    tools_in,
    turns_of,
)
from infifusion.data.files import files_of
from infifusion.data.formats import Format
from infifusion.data.lines import Record
from infifusion.data.turns import written
from infifusion.errors import DataError, RecipeError
from infifusion.recipe import PromptSource, Recipe, WriteResponses
from infifusion.store.hashes import sha256_of
from infifusion.types import Prompt


def read_prompts(
    sources: Sequence[PromptSource], *, seed: int, where: str = "write_responses"
) -> tuple[list[Prompt], dict[str, int]]:
    """All prompts in the recipe's order, each once, and how many were left out: empty, duplicate.

    where: the recipe key, for errors. Raises DataError that names the file and the line or row for
    anything that does not fit.
    """
    prompts: list[Prompt] = []
    left_out = {"empty_prompt": 0, "duplicate_prompt": 0}
    seen: set[tuple[tuple[str, str], ...]] = set()
    for part, source in enumerate(sources):
        first, records = open_records(source)
        form = format_of(source, first)
        found = [
            prompt_of(source, part, form, place, record, where)
            for place, (where, record) in enumerate(records)
        ]
        for prompt in limited(found, source, seed=seed):
            text = tuple((m["role"], written(m)) for m in prompt.messages)
            if not any(content.strip() for _, content in text):
                left_out["empty_prompt"] += 1
            elif text in seen:
                left_out["duplicate_prompt"] += 1
            else:
                seen.add(text)
                prompts.append(prompt)
    if not prompts:
        raise DataError(f"{where}: every prompt is empty.")
    names = own_names([prompt.id for prompt in prompts])
    named = [replace(prompt, id=name) for prompt, name in zip(prompts, names, strict=True)]
    return named, left_out


def prompt_of(
    source: PromptSource, part: int, form: Format | None, place: int, record: Record, where: str
) -> Prompt:
    """One record as a prompt; form is its format, where the recipe names no columns. DataError
    where a field is missing or of another kind."""
    where = f"{where}, prompt {place + 1}"
    read = record if form is None else form.read(record, where)
    messages = turns_of(source, form, read, where)
    conversational = source.messages is not None or (form is not None and form.messages)
    if conversational and tools_in(source, read, where):
        raise DataError(
            f"{where} has functions that may be called (tools). Every model writes calls in its "
            "own way, so that the answers of one cannot be given to another: leave such prompts "
            "out, or give conversations with their calls as data.train."
        )
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


def write_responses_of(recipe: Recipe) -> WriteResponses:
    """The recipe's section; RecipeError where it has none."""
    if recipe.write_responses is None:
        raise RecipeError(
            "The recipe has no section write_responses, so no source can answer. Add it with its "
            "prompts (docs/recipe.md)."
        )
    return recipe.write_responses


def responding_sources(recipe: Recipe) -> list[str]:
    """The sources that answer, in the order that decides ties; none without the section."""
    if recipe.write_responses is None:
        return []
    return recipe.write_responses.sources or list(recipe.sources)


def prompt_files(asked: WriteResponses) -> dict[str, str]:
    """SHA-256 of every local file of prompts."""
    return {str(f): sha256_of(f) for source in asked.prompts for f in files_of(source)}
