"""A recipe with lists in place of values, written out: the machinery of sweep.py.

Paths are keys joined by dots; the place in a list is a key too: data.train.0.limit.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from infifusion.errors import RecipeError
from infifusion.recipe import Distill, Fuse, Merge

ARMS = {"fuse": Fuse, "distill": Distill, "merge": Merge}
MOST_COMBINATIONS = 10_000
Tags = dict[str, Any]
"""Which value stands at each varied place, such as {"fuse.unified.params.kappa": 0.1}."""
Variants = dict[str, dict[str, list[tuple[str, Tags]]]]
"""Per kind (fuse, distill, merge) and name: every variant's own name and its tags."""


def write_out(values: dict[str, Any]) -> tuple[Variants, dict[str, Any]]:
    """Every entry of fuse, distill and merge once per combination of its lists and of those of
    what it refers to: the variants of each name, and the recipe written out."""
    variants: Variants = {kind: {} for kind in ARMS}
    written = {**values, **{kind: {} for kind in ARMS}}
    for kind, schema in ARMS.items():
        entries = values.get(kind) or {}
        if not isinstance(entries, dict):
            written[kind] = entries  # the recipe's own error says what is wrong
            continue
        for name, entry in entries.items():
            if not isinstance(entry, dict) or not isinstance(name, str):
                written[kind][name] = entry
                continue
            made: list[tuple[str, Tags]] = []
            lists = dict(lists_in(entry, schema, f"{kind}.{name}"))
            for chosen in combinations(lists.values(), f"{kind}.{name}"):
                own = dict(zip(lists, chosen, strict=True))
                fixed = copy.deepcopy(entry)
                for path, value in own.items():
                    put(fixed, path.removeprefix(f"{kind}.{name}."), value)
                for referred, tags in _references(kind, fixed, variants):
                    both = {**tags, **own}
                    full = name + "".join(
                        f",{key}={file_word(value)}" for key, value in shortened(both).items()
                    )
                    written[kind][full] = {**fixed, **referred}
                    made.append((full, both))
            variants[kind][name] = made
    return variants, written


def combinations(options: Iterable[Collection[Any]], where: str) -> Iterator[tuple[Any, ...]]:
    """One of each of the options, in every way. RecipeError where there are more ways than
    MOST_COMBINATIONS."""
    listed = list(options)
    if (count := math.prod(map(len, listed))) > MOST_COMBINATIONS:
        raise RecipeError(
            f"{where}: its lists stand for {count:,} combinations; at most {MOST_COMBINATIONS:,} "
            "are written out. Vary less at a time."
        )
    return itertools.product(*listed)


def _references(
    kind: str, entry: dict[str, Any], variants: Variants
) -> Iterator[tuple[dict[str, Any], Tags]]:
    """The entry's references replaced by each variant of what they name, with its tags. Variants
    that stand for different values of one place do not go together."""
    wanted: list[tuple[str, str, str]] = []
    if kind == "distill":
        for field, where in (("target", "fuse"), ("start", "distill")):
            named = entry.get(field)
            wanted += [(field, where, named)] if named and isinstance(named, str) else []
    if kind == "merge" and isinstance(entry.get("models"), list):
        wanted += [("models", "distill", str(model)) for model in entry["models"]]
    options = [variants[where].get(name) or [(name, {})] for _, where, name in wanted]
    for chosen in combinations(options, f"{kind}: {', '.join(name for _, _, name in wanted)}"):
        tags: Tags = {}
        if any(tags.setdefault(key, value) != value for _, t in chosen for key, value in t.items()):
            continue
        replaced: dict[str, Any] = {}
        for (field, _, _), (name, _) in zip(wanted, chosen, strict=True):
            replaced[field] = [*replaced.get(field, []), name] if field == "models" else name
        yield replaced, tags


def lists_in(values: Any, annotation: Any, path: str) -> Iterator[tuple[str, list[Any]]]:
    """(path, options) for every list that stands where its field does not take one, and for every
    list of lists where the field takes a list."""
    schema = _schema_in(annotation)
    if isinstance(values, list):
        if not _takes_list(annotation) or (values and all(isinstance(v, list) for v in values)):
            yield path, values
        elif schema is not None:
            for place, value in enumerate(values):
                yield from lists_in(value, schema, f"{path}.{place}")
    elif isinstance(values, dict):
        fields = schema.model_fields if schema is not None else {}
        by_name = get_origin(_without_none(annotation)) is dict
        for key, value in values.items():
            inner: Any = None
            if by_name:
                inner = get_args(_without_none(annotation))[1]
            elif key in fields:
                inner = fields[key].annotation
            yield from lists_in(value, inner, f"{path}.{key}" if path else str(key))


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _takes_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_list(part) for part in get_args(annotation))
    return get_origin(annotation) is list


def _schema_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a mapping with fixed keys; None for a dict by name and for plain values."""
    annotation = _without_none(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is list:
        return _schema_in(get_args(annotation)[0])
    return None


def stands_in(name: str, values: Any) -> bool:
    """Whether {name} stands in a string of the recipe."""
    if isinstance(values, dict):
        return any(stands_in(name, value) for value in values.values())
    if isinstance(values, list):
        return any(stands_in(name, value) for value in values)
    return isinstance(values, str) and f"{{{name}}}" in values


def filled(values: Any, names: Mapping[str, Any]) -> Any:
    """The recipe with placeholders filled in; a string that is nothing else becomes the value."""
    if isinstance(values, dict):
        return {key: filled(value, names) for key, value in values.items()}
    if isinstance(values, list):
        return [filled(value, names) for value in values]
    if isinstance(values, str):
        for name, value in names.items():
            if values == f"{{{name}}}":
                return value
            values = values.replace(f"{{{name}}}", str(value))
    return values


def laid_over(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, change in changes.items():
        here = found.get(key)
        if change is None:
            found.pop(key, None)
        elif isinstance(change, dict) and isinstance(here, dict):
            found[key] = laid_over(here, change)
        else:
            found[key] = change
    return found


def put(values: Any, path: str, value: Any) -> None:
    """Set one key by its path, making mappings on the way; RecipeError where a step of it is no
    mapping and no place of a list."""
    *parents, last = path.split(".")
    for key in parents:
        here = _place(values, key, path)
        values = values.setdefault(here, {}) if isinstance(values, dict) else values[here]
    values[_place(values, last, path)] = value


def _place(values: Any, key: str, path: str) -> str | int:
    if isinstance(values, dict):
        return key
    if isinstance(values, list) and key.isdigit() and int(key) < len(values):
        return int(key)
    raise RecipeError(f"settings.{path}: there is no '{key}' to go into or to set.")


def shortened(tags: Tags) -> Tags:
    """The same values under the shortest last parts of their paths that tell them apart."""
    found: Tags = {}
    for path, value in tags.items():
        parts = path.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        alone = (e for e in endings if sum(f".{other}".endswith(f".{e}") for other in tags) == 1)
        found[next(alone, path)] = value
    return found


def file_word(value: Any) -> str:
    """A value as part of a folder's name."""
    text = value if isinstance(value, str) else str(value).replace(" ", "").replace("'", "")
    return re.sub(r"[^A-Za-z0-9_.+\-\[\]]", "-", text)[:60]
