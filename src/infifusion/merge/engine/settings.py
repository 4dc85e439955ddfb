"""A merge method by its name, and what a merge file says of its parameters, worked out for each
tensor."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

from infifusion.errors import RecipeError
from infifusion.merge.engine.file import (
    Condition,
    MergeFile,
    Module,
    Scalar,
    Setting,
    Slice,
    SliceSource,
)
from infifusion.merge.methods import METHODS, Method
from infifusion.named import params_class_of
from infifusion.registry import look_up, nearest
from infifusion.strict import Strict

# Accepted for mergekit's sake and without effect, whatever the method.
IGNORED = {"int8_mask": "masks take one bit here"}


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


def check_parameters(file: MergeFile, method: Method, *, where: str) -> list[str]:
    """RecipeError for a parameter that the method does not have; returns notes for the user."""
    known, ignored = method.parameters, IGNORED | dict(method.ignored or {})
    modules = file.parts().values()
    slices = [one for module in modules for one in module.slices or []]
    own = [one.parameters for module in modules for one in module.models or []]
    own += [source.parameters for one in slices for source in one.sources]
    shared = [file.parameters, *(one.parameters for one in (*modules, *slices))]
    notes = []
    for scope, is_own in [*((s, True) for s in own), *((s, False) for s in shared)]:
        for key in scope:
            if key in ignored:
                notes.append(f"{key} is not needed: {ignored[key]}.")
            elif key not in known:
                hint = nearest(key, known)
                raise RecipeError(
                    f"{where}: {file.merge_method} has no parameter '{key}'.{hint} It has: "
                    f"{', '.join(sorted(known)) or 'none'}."
                )
            elif is_own and key not in method.per_model:
                raise RecipeError(
                    f"{where}: '{key}' is one value for all models; put it under the file's own "
                    "parameters, not under a model."
                )
    return sorted(set(notes))


@dataclass(frozen=True)
class Settings:
    """The parameters of one module of a file; `where` names the file in errors."""

    file: MergeFile
    module: Module
    method: Method
    where: str

    def of_tensor(
        self, name: str, one: Slice, sources: list[SliceSource], inputs: list[str], t: float
    ) -> Strict:
        """The parameters of the tensor `name` at depth t in [0, 1], which is merged from the
        tensors `inputs` of the `sources`, without the base. RecipeError for values that the method
        does not take."""
        loose = self.file.mergekit_compat
        shared = [one.parameters, self.module.parameters, self.file.parameters]
        values: dict[str, Any] = {}
        for key in self.method.parameters:
            if key not in self.method.per_model:
                value = resolve(key, shared, name, t, loose=loose)
                if value is not None:
                    values[key] = value
                continue
            each = [
                resolve(key, [source.parameters, *shared], inner, t, loose=loose)
                for source, inner in zip(sources, inputs, strict=True)
            ]
            if any(value is not None for value in each):
                if None in each:
                    raise RecipeError(
                        f"{self.where}: '{key}' is given for some models and not for others "
                        f"(tensor {name}). Give it for each, or once under parameters."
                    )
                values[key] = tuple(each)
        if loose and self.method.as_mergekit:
            values |= self.method.as_mergekit(values)
        return _validated(self.method.params, self.where, tuple(values.items()))


@cache
def _validated(params: type[Strict], where: str, values: tuple) -> Strict:
    """Validated once for all tensors that have the same values."""
    return params.from_mapping(
        {k: list(v) if isinstance(v, tuple) else v for k, v in values}, where=f"{where}: parameters"
    )


def resolve(
    key: str, scopes: list[dict[str, Setting]], tensor: str, t: float, *, loose: bool
) -> Scalar | None:
    """The nearest scope's value for a tensor at depth t in [0, 1]; None where none says."""
    for scope in scopes:
        if key in scope:
            value = evaluate(scope[key], tensor, t, loose=loose)
            if value is not None:
                return value
    return None


def evaluate(setting: Setting, tensor: str, t: float, *, loose: bool) -> Scalar | None:
    """One value of a setting: conditions in their order, lists interpolated over the layers.

    A list of n numbers stands at depths 0, 1 / (n - 1), ..., 1 with straight lines in between; of
    other values the one before t is taken.
    """
    if isinstance(setting, Condition):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if setting and isinstance(setting[0], Condition):
        for condition in setting:
            assert isinstance(condition, Condition)
            if matches(condition.filter, tensor, loose=loose):
                return evaluate(condition.value, tensor, t, loose=loose)
        return None
    if not setting:
        return None
    values = [_number(value) for value in setting]  # type: ignore[arg-type]
    place = t * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    if any(isinstance(value, bool | str) for value in values):
        return values[low]
    return (1 - (place - low)) * values[low] + (place - low) * values[high]  # type: ignore[operator]


def _number(value: Scalar) -> Scalar:
    """YAML reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def matches(filter_: str | None, tensor: str, *, loose: bool) -> bool:
    """Whether the filter stands in the tensor's name, no number cut in two: `layers.1` is not in
    `layers.10`, as it is where `loose`, for mergekit."""
    if filter_ is None or filter_ == "*":
        return True
    start = tensor.find(filter_)
    while start >= 0:
        stop = start + len(filter_)
        cut_left = start > 0 and tensor[start - 1].isdigit() and filter_[:1].isdigit()
        cut_right = stop < len(tensor) and tensor[stop].isdigit() and filter_[-1:].isdigit()
        if loose or not (cut_left or cut_right):
            return True
        start = tensor.find(filter_, start + 1)
    return False
