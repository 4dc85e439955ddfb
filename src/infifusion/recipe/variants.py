"""A recipe with lists in place of values, written out, for sweep/file.py.

Paths are keys joined by dots; the place in a list is a key too: data.train.0.limit.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from infifusion.errors import RecipeError
from infifusion.recipe import Distill, Fuse, Merge
from infifusion.strict import parts_of

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
            lists = dict(lists_in(entry, schema, ""))
            for chosen in combinations(lists.values(), f"{kind}.{name}"):
                fixed = copy.deepcopy(entry)
                for path, value in zip(lists, chosen, strict=True):
                    put(fixed, path, value)
                own = {f"{kind}.{name}.{path}": v for path, v in zip(lists, chosen, strict=True)}
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
    """Every combination of one value from each list. RecipeError where there are more than
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
        for model in map(str, entry["models"]):
            where = "merge" if model in variants["merge"] else "distill"
            wanted.append(("models", where, model))
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
    schema, only = _schema_in(annotation), _only_part(annotation)
    if isinstance(values, list):
        takes_list = any(get_origin(part) is list for part in parts_of(annotation))
        if not takes_list or (values and all(isinstance(v, list) for v in values)):
            yield path, values
        elif schema is not None:
            for place, value in enumerate(values):
                yield from lists_in(value, schema, f"{path}.{place}")
    elif isinstance(values, dict):
        fields = schema.model_fields if schema is not None else {}
        for key, value in values.items():
            inner: Any = fields[key].annotation if key in fields else None
            if get_origin(only) is dict:
                inner = get_args(only)[1]
            yield from lists_in(value, inner, f"{path}.{key}" if path else str(key))


def _only_part(annotation: Any) -> Any:
    """What a field holds that is no union, None apart."""
    parts = parts_of(annotation)
    return parts[0] if len(parts) == 1 else None


def _schema_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a mapping with fixed keys, or of each in a list; None for a dict by name and for
    plain values."""
    only = _only_part(annotation)
    if get_origin(only) is list:
        return _schema_in(get_args(only)[0])
    return only if isinstance(only, type) and issubclass(only, BaseModel) else None


def stands_in(name: str, values: Any) -> bool:
    """Whether the placeholder {name} occurs in a string of the values."""
    if isinstance(values, dict):
        return any(stands_in(name, value) for value in values.values())
    if isinstance(values, list):
        return any(stands_in(name, value) for value in values)
    return isinstance(values, str) and f"{{{name}}}" in values


def filled(values: Any, names: Mapping[str, Any]) -> Any:
    """The values with placeholders {name} replaced; a string that is only a placeholder becomes the
    value itself, of its own type."""
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
    """The values with the changes made, mapping by mapping; a change to None removes a key."""
    changed = dict(values)
    for key, change in changes.items():
        here = changed.get(key)
        if isinstance(change, dict) and isinstance(here, dict):
            change = laid_over(here, change)
        changed[key] = change
    removed = [key for key, change in changes.items() if change is None]
    return {key: value for key, value in changed.items() if key not in removed}


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
    """The tags with each path cut to its shortest ending that no other path has."""
    short: Tags = {}
    for path, value in tags.items():
        parts = path.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        alone = (e for e in endings if sum(f".{other}".endswith(f".{e}") for other in tags) == 1)
        short[next(alone, path)] = value
    return short


def file_word(value: Any) -> str:
    """A value as part of the name of a file or folder: 60 letters, digits and signs at most."""
    text = value if isinstance(value, str) else str(value).replace(" ", "").replace("'", "")
    return re.sub(r"[^A-Za-z0-9_.+\-\[\]]", "-", text)[:60]
