"""Look-up of names in tables of functions, and of `module:function` for functions outside."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from infifusion.errors import RecipeError

Entry = TypeVar("Entry")


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest known spelling, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def look_up(table: Mapping[str, Entry], name: str, *, kind: str, where: str = "") -> Entry:
    """The entry called `name`; `kind` ("merge method") is the word used in the error, which begins
    with `where`, the file or key that has the name.

    A name with a colon, `module:function`, is imported instead, so that a method can live outside
    the package. Raises RecipeError with the known names and the nearest spelling.
    """
    if name in table:
        return table[name]
    place = f"{where}: " if where else ""
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:  # a module can raise anything while it is imported
            others = f", or name one of: {', '.join(sorted(table))}" if table else ""
            raise RecipeError(
                f"{place}The {kind} '{name}' cannot be imported: {error}. Expected module:function "
                f"of an importable module; put its folder on PYTHONPATH{others}."
            ) from error
    raise RecipeError(
        f"{place}There is no {kind} called '{name}'.{nearest(name, table)} Known: "
        f"{', '.join(sorted(table))}; or module:function for your own."
    )


def first_line(entry: object) -> str:
    """The first line of a docstring: what `infifusion list` prints."""
    return (entry.__doc__ or "").strip().partition("\n")[0]
