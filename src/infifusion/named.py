"""Names in a recipe become functions with their parameters here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from infifusion.errors import RecipeError
from infifusion.registry import look_up
from infifusion.strict import Strict

Function = TypeVar("Function", bound=Callable[..., Any])


def function_and_params(
    table: Mapping[str, Function],
    params_table: Mapping[str, type[Strict]],
    name: str,
    values: dict[str, Any],
    *,
    kind: str,
    where: str,
) -> tuple[Function, Strict]:
    """The function called `name` and its validated Params.

    An outside function, module:function, takes the class `Params` of its own module. Raises
    RecipeError for an unknown name or parameter; `where` is the recipe key.
    """
    function = look_up(table, name, kind=kind, where=where)
    params_class = params_class_of(function, params_table, name, where=where)
    return function, params_class.from_mapping(values, where=f"{where}.params")


def params_class_of(
    function: Callable[..., Any], params_table: Mapping[str, type[Strict]], name: str, *, where: str
) -> type[Strict]:
    """The class that describes a function's parameters. RecipeError where it has none."""
    params_class = params_table.get(name) or getattr(inspect.getmodule(function), "Params", None)
    if params_class is None:
        raise RecipeError(
            f"{where}: the module of {name} has no class Params (a infifusion.strict.Strict), "
            "which describes the function's parameters. Add one; it may be empty."
        )
    return params_class
