"""Known forms of training data, told by the columns where a recipe does not name them.

The names are those of TRL (`conversational`, `prompt-completion`) and axolotl (`sharegpt`,
`alpaca`). A format turns a record into one with `messages`, or with `prompt` and `response`, which
is what a recipe can name itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from infifusion.errors import DataError
from infifusion.registry import nearest

Record = dict[str, Any]
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
"""ShareGPT's speakers, as the data sets in use write them, and what a chat template calls them."""


@dataclass(frozen=True)
class Format:
    """One form of data.

    columns: what a record must have. optional: what it may have besides. reads: the record in the
    form that `messages` (or `prompt` and `response`) names. fits: whether the values of the first
    record are of this form.
    """

    name: str
    columns: tuple[str, ...]
    reads: Callable[[Record, str], Record]
    fits: Callable[[Record], bool]
    optional: tuple[str, ...] = ()
    messages: bool = False

    def accepts(self, record: Record) -> bool:
        """Whether a record is of this form."""
        return all(record.get(name) is not None for name in self.columns) and self.fits(record)

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


def recognise(record: Record, where: str) -> Format:
    """The one format that fits a record. DataError, with the columns and the keys to write, where
    none does or several do."""
    found = [one for one in FORMATS.values() if one.accepts(record)]
    if len(found) == 1:
        return found[0]
    columns = ", ".join(map(str, record)) or "none"
    keys = (
        "Say in the recipe which columns to read: `prompt: COLUMN, response: COLUMN` (or templates "
        "such as 'Q: {question}'), or `messages: COLUMN` for a list of turns."
    )
    if found:
        several = ", ".join(f"{one.name} ({', '.join(one.columns)})" for one in found)
        raise DataError(
            f"{where}: the columns fit more than one format: {several}. Columns: {columns}. {keys}"
        )
    known = "; ".join(f"{one.name}: {', '.join(one.columns)}" for one in FORMATS.values())
    raise DataError(
        f"{where}: the columns fit no known format.{_nearly(record)} Columns: {columns}. {keys} "
        f"Known formats: {known}."
    )


def as_turns(value: Any) -> Any:
    """A list of ShareGPT's {from, value} as {role, content}; anything else as it is."""
    fits = isinstance(value, list) and all(
        isinstance(turn, Mapping) and "from" in turn and "value" in turn for turn in value
    )
    if not fits:
        return value
    return [
        {"role": ROLES.get(str(turn["from"]).lower(), turn["from"]), "content": turn["value"]}
        for turn in value
    ]


def _nearly(record: Record) -> str:
    """What a record lacks to be of a format of which it has a column."""
    for one in FORMATS.values():
        lacking = [name for name in one.columns if record.get(name) is None]
        if len(lacking) < len(one.columns) and lacking:
            hint = nearest(lacking[0], map(str, record))
            return f" For {one.name} there is no '{lacking[0]}'.{hint}"
    return ""


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
    for turn in record["conversations"]:
        speaker = turn.get("from") if isinstance(turn, Mapping) else turn
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
    asked = [record["instruction"], record.get("input") or ""]
    if not all(isinstance(text, str) for text in [*asked, record["output"]]):
        raise DataError(f"{where}: instruction, input and output must be texts.")
    turns = [
        {"role": "user", "content": "\n\n".join(text for text in asked if text.strip())},
        {"role": "assistant", "content": record["output"]},
    ]
    return {"messages": _under(record.get("system"), turns)}


def _conversational_completion(record: Record, where: str) -> Record:
    completion = record["completion"]
    if not isinstance(completion, list) or len(completion) != 1:
        raise DataError(f"{where}: completion must be a list of one message, the assistant's.")
    if not isinstance(record["prompt"], list):
        raise DataError(f"{where}: prompt must be a list of messages, as completion is.")
    return {"messages": [*record["prompt"], *completion]}


def _table(formats: Iterable[Format]) -> dict[str, Format]:
    return {one.name: one for one in formats}


FORMATS = _table(
    [
        Format(
            "prompt-response",
            ("prompt", "response"),
            lambda record, where: {},
            lambda record: True,
        ),
        Format(
            "conversational",
            ("messages",),
            lambda record, where: {},
            lambda record: _turns(record["messages"], "role", "content"),
            messages=True,
        ),
        Format(
            "sharegpt",
            ("conversations",),
            _sharegpt,
            lambda record: _turns(record["conversations"], "from", "value"),
            optional=("system",),
            messages=True,
        ),
        Format(
            "alpaca",
            ("instruction", "output"),
            _alpaca,
            _texts("instruction", "output"),
            optional=("input", "system"),
            messages=True,
        ),
        Format(
            "prompt-completion",
            ("prompt", "completion"),
            lambda record, where: {"response": record["completion"]},
            _texts("prompt", "completion"),
        ),
        Format(
            "conversational prompt-completion",
            ("prompt", "completion"),
            _conversational_completion,
            lambda record: _turns(record["prompt"], "role", "content"),
            messages=True,
        ),
    ]
)
