"""Which columns of a data file hold prompt and response, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infifusion.data.examples import LOCAL_SUFFIXES, read_records
from infifusion.data.formats import FORMATS
from infifusion.errors import DataError
from infifusion.recipe import DataFile

PROMPTS = ("prompt", "question", "query", "problem", "instruction", "input", "text")
RESPONSES = ("response", "answer", "completion", "output", "solution", "canonical_solution", "code")
CHATS = ("messages", "conversation", "conversations")
WHOLE = ("alpaca", "sharegpt", "conversational prompt-completion")
"""Formats that no key names: `run` and `check` recognise them where an entry names no columns."""


def columns_of(record: dict[str, Any], where: str) -> dict[str, str]:
    """The keys of a data entry: messages, or prompt and response; none where the format says all.

    Raises DataError with the columns there are where their names say nothing.
    """
    for name in CHATS:
        turns = record.get(name)
        if isinstance(turns, list) and turns and {"role", "content"} <= set(turns[0]):
            return {"messages": name}
    if any(FORMATS[name].accepts(record) for name in WHOLE):
        return {}
    prompt = next((name for name in PROMPTS if isinstance(record.get(name), str)), None)
    named = [name for name in RESPONSES if isinstance(record.get(name), str) and name != prompt]
    if prompt is None or not named:
        raise DataError(
            f"{where}: its columns {', '.join(record)} do not say which is the prompt and which "
            f"the response. Known names: {', '.join(PROMPTS)}; {', '.join(RESPONSES)}; or messages "
            "of role and content. Rename the columns, or write the recipe by hand: infifusion init "
            "--template laptop."
        )
    return {"prompt": prompt, "response": named[0]}


def columns_of_file(path: str) -> dict[str, str] | None:
    """The same of a file's first record; None for a data set of the hub that cannot be read now."""
    local = Path(path)
    if local.suffix in LOCAL_SUFFIXES or local.exists():
        first = next(read_records(DataFile(path=path, domain="any")), None)
        if first is None:
            raise DataError(f"{path} holds no examples. Give a file with one JSON object a line.")
        return columns_of(first, path)
    try:
        first = next(read_records(DataFile(path=path, domain="any")), None)
    except DataError:
        return None
    return None if first is None else columns_of(first, path)
