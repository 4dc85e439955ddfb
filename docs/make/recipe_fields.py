"""Write docs/recipe_fields.md: every field of recipes, sweeps and merge files, from the code.

    python docs/make/recipe_fields.py

`make docs` runs it, and a test says when the page no longer fits the code.
"""

from __future__ import annotations

import datetime
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from infifusion import choose, fuse, losses
from infifusion.merge.engine.file import MergeFile, Scalar, Setting
from infifusion.merge.methods import METHODS
from infifusion.recipe import Recipe
from infifusion.strict import Strict
from infifusion.sweep.file import Sweep

PAGE = Path(__file__).parents[1] / "recipe_fields.md"
HEAD = """\
# Every field

<!-- Written by docs/make/recipe_fields.py from the code. Change the strings under the fields there,
then run `make docs`. -->

What each field is, one table per mapping of the file. [Recipe](recipe.md) says how they work
together.
Unknown keys are refused with the nearest spelling; so are values that do not fit.
A default of – is nothing; what that means is said in the field's text.
"""
FORMS: dict[str, tuple[type[Strict], str]] = {
    "Recipe": (Recipe, "`infifusion run`, `check` and `plan` read it ([Recipe](recipe.md))."),
    "Sweep file": (Sweep, "`infifusion sweep` reads it ([Sweeps](sweep.md))."),
    "Merge file": (MergeFile, "`infifusion merge` reads it ([Merging weights](merge.md))."),
}
PARAMETERS: dict[str, tuple[str, Mapping[str, type[Strict]]]] = {
    "Fusion functions": ("`fuse.NAME.params`", fuse.PARAMS),
    "Losses": ("`distill.NAME.params`", losses.PARAMS),
    "Choosers": ("`write_responses.params`", choose.PARAMS),
    "Merge methods": (
        "`merge.NAME.params`; `parameters` of a merge file",
        {name: method.params for name, method in METHODS.items()},
    ),
}
WORDS: list[tuple[Any, str]] = [
    (str, "text"),
    (datetime.date, "a date"),
    (int, "whole number"),
    (float, "number"),
    (bool, "true or false"),
    (Any, "anything"),
    (Scalar, "plain value"),
    (Setting, "plain value, list, or `{filter, value}`"),
]
"""Types by their names; pairs, because not every type can be a key."""
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for title, (model, line) in FORMS.items():
        parts.append(f"## {title}\n\n{line}\n\n{_table(model)}")
        for inner, paths in _places(model).items():
            parts.append(f"### {_where(paths)}\n\n{_words(inner.__doc__)}\n\n{_table(inner)}")
    parts.append(
        "## Parameters of methods\n\nA method that is not in its table has none. `infifusion list` "
        "says what each one is."
    )
    for title, (where, classes) in PARAMETERS.items():
        rows = [
            f"| `{method}` {_cells(name, field)}"
            for method, model in classes.items()
            for name, field in model.model_fields.items()
        ]
        head = "| method | parameter | value | default | |\n|---|---|---|---|---|\n"
        parts.append(f"### {title}\n\n{where}\n\n{head}" + "\n".join(rows))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _where(paths: list[str]) -> str:
    """The places of a mapping; of many the shortest stands for the others."""
    if len(paths) > 3:
        return f"`{min(paths, key=len)}`, and {len(paths) - 1} places like it"
    return ", ".join(f"`{path}`" for path in paths)


def _places(model: type[Strict]) -> dict[type[Strict], list[str]]:
    """Every kind of mapping inside a model, and the paths at which it stands, depth first. A kind
    is looked into once."""
    found: dict[type[Strict], list[str]] = {}

    def look_into(outer: type[Strict], above: str) -> None:
        for name, field in outer.model_fields.items():
            for inner, mark in _models_in(field.annotation):
                path = f"{above}{name}{mark}"
                paths = found.setdefault(inner, [])
                if not paths:
                    look_into(inner, f"{path}.")
                if path not in paths:
                    paths.append(path)

    look_into(model, "")
    return found


def _models_in(annotation: Any, mark: str = "") -> Iterator[tuple[type[Strict], str]]:
    """The Strict models in an annotation, each with what its path goes on with."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation, mark
    origin = get_origin(annotation)
    added = ".NAME" if origin is dict else "[]" if origin is list else ""
    for argument in get_args(annotation):
        yield from _models_in(argument, mark + added)


def _table(model: type[Strict]) -> str:
    rows = [_cells(name, field) for name, field in model.model_fields.items()]
    return "| field | value | default | |\n|---|---|---|---|\n" + "\n".join(rows)


def _cells(name: str, field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"The field '{name}' is not documented: add a string under it.")
    value = ", ".join([_type(field.annotation), *_limits(field)])
    text = _words(field.description)
    return f"| `{field.alias or name}` | {value} | {_default(field)} | {text} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None:
        return "–"
    if isinstance(default, Strict):
        return "its defaults"
    return f"`{json.dumps(default)}`"


def _limits(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        for name, words in LIMITS.items():
            if getattr(limit, name, None) is not None:
                yield f"{words} {getattr(limit, name)}"
        if getattr(limit, "min_length", None):
            yield "not empty"
        if getattr(limit, "max_length", None):
            yield f"at most {limit.max_length} characters"
        if getattr(limit, "pattern", None):
            yield f"of the form `{limit.pattern}`".replace("|", "&#124;")


def _type(annotation: Any) -> str:
    """What may be written, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    for known, words in WORDS:
        if annotation == known:
            return words
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}, each a {_type(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"name: {_type(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return "mapping"
    return _type(arguments[0])  # Annotated


def _words(text: str | None) -> str:
    """Documentation as one table cell."""
    return " ".join((text or "").split()).replace("|", "&#124;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
