"""What `check` says of the training data: which format, which columns, and one example."""

from __future__ import annotations

from infifusion.data.examples import first_record, format_of, is_local, to_example
from infifusion.errors import DataError, InfiFusionError
from infifusion.recipe import Data, DataSource

SHOWN = 60  # characters of a prompt and of a response


def look_at_data(data: Data, *, ask_hub: bool) -> tuple[list[str], list[str]]:
    """Two lines for each data set, and what is wrong with them: the first example of each is read,
    with ask_hub from the hub too, where it can be reached."""
    lines: list[str] = []
    problems: list[str] = []
    parts = {"train": data.train, "held_out": data.held_out, "decontaminate": data.decontaminate}
    for part, sources in parts.items():
        for place, source in enumerate(sources):
            if not ask_hub and not is_local(source):
                continue
            try:
                lines += _look_at(source)
            except InfiFusionError as error:
                problems.append(f"data.{part}.{place}: {error}")
    return lines, problems


def _look_at(source: DataSource) -> list[str]:
    try:
        first = first_record(source)
    except DataError as error:
        if is_local(source):
            raise
        return [f"  data      {source.domain}: {source.path}, not looked at: {error}"]
    if first is None:
        raise DataError(f"{source.path} holds no examples. Check the file, or the hub's split.")
    found = format_of(source, first)
    example = to_example(source, found, first, 0)
    if found is not None:
        read = f"{found.name} ({', '.join(found.present(first))})"
    elif source.messages is not None:
        read = f"as the recipe says (messages: {source.messages})"
    else:
        keys = (source.prompt or "prompt", source.response or "response")
        read = "as the recipe says (prompt: {!r}, response: {!r})".format(*keys)
    prompt = " | ".join(f"{turn['role']}: {turn['content']}" for turn in example.prompt)
    return [
        f"  data      {source.domain}: {source.path}, {read}",
        f"            {_short(prompt)} -> {_short(example.response)}",
    ]


def _short(text: str) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return repr(shown)
