"""Every field of a configuration, found in its pydantic models, and values that it must refuse."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Values = dict[str, Any]
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Spot:
    """A field, and where it stands in a complete configuration."""

    place: Place
    name: str
    field: FieldInfo

    @property
    def path(self) -> str:
        """The keys joined by dots, as messages have them."""
        return ".".join(str(part) for part in (*self.place, self.name))


def spots(schema: type[BaseModel], values: Any, place: Place = ()) -> Iterator[Spot]:
    """Every field of the schema and of the models inside it; `values` is a configuration that has
    each of the models somewhere, and leads the way."""
    for name, field in schema.model_fields.items():
        yield Spot(place, field.alias or name, field)
        inner = _model_in(field.annotation)
        value = values.get(name)
        if inner is None or value is None:
            continue
        if isinstance(value, list):
            yield from spots(inner, value[0], (*place, name, 0))
        elif _by_name(field.annotation):
            key = next(iter(value))
            yield from spots(inner, value[key], (*place, name, key))
        else:
            yield from spots(inner, value, (*place, name))


def models_in(schema: type[BaseModel]) -> set[str]:
    """Names of the schema and of all models inside it."""
    found = {schema.__name__}
    for field in schema.model_fields.values():
        inner = _model_in(field.annotation)
        found |= models_in(inner) if inner is not None else set()
    return found


def with_value(values: Values, spot: Spot, value: Any) -> Values:
    """The configuration with another value at the spot."""
    changed = copy.deepcopy(values)
    _at(changed, spot.place)[spot.name] = value
    return changed


def misspelt(values: Values, spot: Spot) -> tuple[Values, str]:
    """The configuration with the field's name misspelt, and the wrong spelling."""
    changed = copy.deepcopy(values)
    here = _at(changed, spot.place)
    wrong = spot.name[:-1] + spot.name[-1] * 2
    here[wrong] = here.pop(spot.name, 1)
    return changed, wrong


def wrong_types(annotation: Any) -> list[Any]:
    """Values of a type that the field does not take."""
    kinds = set(_plain_types(annotation))
    wrong: list[Any] = [[[1]]]  # no field takes a list of lists of numbers
    if kinds & {int, float} and str not in kinds:
        wrong += ["many", {"a": 1}] + ([] if bool in kinds else [True])
    if kinds == {str}:
        wrong += [7, {"a": 1}]
    if bool in kinds:
        wrong += ["perhaps", 7]
    if kinds & {dict, list} and str not in kinds:
        wrong += [7, "text"]
    return wrong


def out_of_range(field: FieldInfo) -> list[Any]:
    """Values of the right type that the field's own limits refuse."""
    wrong: list[Any] = []
    for limit in field.metadata:
        for name, step in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
            bound = getattr(limit, name, None)
            wrong += [] if bound is None else [bound + step]
        if getattr(limit, "min_length", None):
            wrong.append(_plain(field.annotation)())
        if getattr(limit, "pattern", None):
            wrong += ["../up", "", "a b"]
        if getattr(limit, "max_length", None):
            wrong.append("x" * (limit.max_length + 1))
    kinds = set(_plain_types(field.annotation))
    if float in kinds:
        wrong += [float("nan"), float("inf"), float("-inf")]
    if _choices(field.annotation) and str not in kinds:
        wrong.append("no-such-choice")
    return wrong


def _at(values: Any, place: Place) -> Any:
    for part in place:
        values = values[part]
    return values


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotation, or each part of a union, None apart."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    elif annotation is not type(None):
        yield annotation


def _plain(annotation: Any) -> type:
    return next(_plain_types(annotation))


def _plain_types(annotation: Any) -> Iterator[type]:
    for part in _parts(annotation):
        if get_origin(part) is not Literal:
            origin = get_origin(part) or part
            yield dict if issubclass(origin, BaseModel) else origin


def _choices(annotation: Any) -> bool:
    return any(get_origin(part) is Literal for part in _parts(annotation))


def _by_name(annotation: Any) -> bool:
    return any(get_origin(part) is dict for part in _parts(annotation))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for part in _parts(annotation):
        for candidate in (part, *get_args(part)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                return candidate
    return None
