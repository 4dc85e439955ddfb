"""From the name of a merge method, or module:function, to its record."""

from __future__ import annotations

import inspect
from typing import Any

from infifusion.merge.methods import METHODS, Method
from infifusion.named import params_class_of
from infifusion.registry import look_up
from infifusion.strict import Strict


def find_method(name: str, *, where: str = "") -> Method:
    """The record of a method: from the table, or by module:RECORD or module:function.

    Of a function the record in its module is taken; without one it is made from the class `Params`
    beside the function, and then says of the method that it may or may not have a base and, so that
    no memory is counted too low, that it merges whole rows. Raises RecipeError for an unknown name
    and for a function without `Params`; `where` is the file or key that has the name.
    """
    found: Any = look_up(METHODS, name, kind="merge method", where=where)
    if isinstance(found, Method):
        return found
    for value in vars(inspect.getmodule(found) or object).values():
        if isinstance(value, Method) and value.function is found:
            return value
    return Method(
        found, params_class_of(found, {}, name, where=where), base="optional", by_rows=True
    )


def method_and_params(name: str, values: dict[str, Any], *, where: str) -> tuple[Method, Strict]:
    """A method's record, and its parameters from a recipe's; `where` is the recipe's key. Raises
    RecipeError for an unknown name or parameter."""
    method = find_method(name, where=where)
    return method, method.params.from_mapping(values, where=f"{where}.params")
