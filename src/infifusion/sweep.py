"""A sweep: one recipe with lists in place of values, seeds, and the models to compare.

Lists in `fuse`, `distill` and `merge` make *arms*: one variant of the entry per value, and of all
that follow from it. Lists elsewhere, and `settings`, make *settings*: each is a run of its own, in
which all arms are trained again. A field that is a list by nature varies by a list of lists.
"""

from __future__ import annotations

import itertools
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, Field

from infifusion.errors import RecipeError
from infifusion.recipe import Distill, Fuse, Merge, Recipe, anchor
from infifusion.registry import nearest
from infifusion.strict import Strict, override, read_yaml

ARMS = {"fuse": Fuse, "distill": Distill, "merge": Merge}
Tags = dict[str, Any]
"""Which value stands at each varied place, such as {"fuse.unified.params.kappa": 0.1}."""


class Sweep(Strict):
    """A sweep file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep; its folder is runs/NAME by default."""
    recipe: str | dict[str, Any]
    """A recipe, or the file of one, relative to the sweep file; with lists in place of values. In
    its strings {seed} and {NAME of a setting} are filled in."""
    changes: dict[str, Any] = {}
    """Keys laid over the recipe's, mapping by mapping; null removes one."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """The recipe's seed. Every setting is run once with each."""
    settings: dict[str, list[Any]] = {}
    """Values to run everything with, every combination: a name that stands as {NAME} in the
    recipe, or the path of a key such as training.max_steps."""
    arms: list[str] | None = None
    """Models to compare: runs and merges (a varied one stands for all its variants), pivot,
    source:NAME. By default all of the recipe."""
    against: list[str] = []
    """Arms that every other arm is compared with; by default the runs without a target (SFT), or
    the pivot where there is none."""


@dataclass(frozen=True)
class World:
    """One setting with one seed: a recipe that holds every arm, and what to compare in it."""

    folder: str
    setting: Tags
    """The values of what varies."""
    seed: int
    recipe: Recipe
    arms: list[str]
    against: list[str]

    @property
    def words(self) -> str:
        """The setting in a few words; empty where nothing varies."""
        return ", ".join(f"{short}={value}" for short, value in shortened(self.setting).items())


def load_sweep(path: Path, assignments: list[str]) -> tuple[Sweep, list[World]]:
    """Read a sweep file and write out every recipe it stands for, seeds outermost.

    Raises RecipeError for whatever is wrong with the file or with any of its recipes.
    """
    sweep = Sweep.from_mapping(override(read_yaml(path), assignments), where=str(path))
    folder, where, values = path.parent.resolve(), str(path), sweep.recipe
    if isinstance(values, str):
        inner = (folder / Path(values).expanduser()).resolve()
        folder, where, values = inner.parent, str(inner), read_yaml(inner)
    values = _laid_over({**values, "name": sweep.name}, sweep.changes)
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise RecipeError(f"{path}: seeds names a seed twice: {sweep.seeds}.")
    _require_placeholders(sweep, values, path)
    worlds = []
    options = _settings(sweep, values)
    varied = {key for key, found in options.items() if len(found) > 1}
    for seed in sweep.seeds:
        for chosen in itertools.product(*options.values()):
            setting = dict(zip(options, chosen, strict=True))
            fixed = _with_setting(sweep, values, setting, seed)
            variants, written = _write_out(fixed)
            recipe = anchor(Recipe.from_mapping(written, where=where), folder)
            arms = _arms(sweep, recipe, variants, path)
            against = _against(sweep, recipe, variants, arms, path)
            recipe = recipe.model_copy(
                update={"evaluate": recipe.evaluate.model_copy(update={"models": arms})}
            )
            named = {key: value for key, value in setting.items() if key in varied}
            name = _folder_name(named, seed)
            worlds.append(World(name, named, seed, recipe, arms, against))
    return sweep, worlds


def shortened(tags: Tags) -> Tags:
    """The same values under the shortest last parts of their paths that tell them apart."""
    found: Tags = {}
    for path, value in tags.items():
        parts = path.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        alone = (e for e in endings if sum(f".{other}".endswith(f".{e}") for other in tags) == 1)
        found[next(alone, path)] = value
    return found


def _settings(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What varies by setting: `settings`, and the lists outside fuse, distill and merge."""
    varied = dict(sweep.settings)
    outside = {key: value for key, value in values.items() if key not in ARMS}
    varied |= dict(_lists(outside, Recipe, ""))
    for key, options in varied.items():
        if not options:
            raise RecipeError(f"{key}: expected values to choose from, found an empty list.")
    return varied


def _with_setting(
    sweep: Sweep, values: Mapping[str, Any], setting: Tags, seed: int
) -> dict[str, Any]:
    names = {**{key: setting[key] for key in sweep.settings}, "seed": seed}
    placeholders = {key for key in names if _stands_in(key, values)}
    fixed: Any = _filled(values, {key: names[key] for key in placeholders})
    for key, value in setting.items():
        if key not in placeholders:
            _put(fixed, key, value)
    return {**fixed, "seed": seed}


def _write_out(
    values: dict[str, Any],
) -> tuple[dict[str, dict[str, list[tuple[str, Tags]]]], dict[str, Any]]:
    """Every entry of fuse, distill and merge once per combination of its lists and of those of
    what it refers to: the variants of each name, and the recipe written out."""
    variants: dict[str, dict[str, list[tuple[str, Tags]]]] = {kind: {} for kind in ARMS}
    written = {**values, **{kind: {} for kind in ARMS}}
    for kind, schema in ARMS.items():
        for name, entry in (values.get(kind) or {}).items():
            if not isinstance(entry, dict):
                written[kind][name] = entry  # the recipe's own error says what is wrong
                continue
            made: list[tuple[str, Tags]] = []
            lists = dict(_lists(entry, schema, f"{kind}.{name}"))
            for chosen in itertools.product(*lists.values()):
                own = dict(zip(lists, chosen, strict=True))
                fixed = _copy(entry)
                for path, value in own.items():
                    _put(fixed, path.removeprefix(f"{kind}.{name}."), value)
                for referred, tags in _references(kind, fixed, variants):
                    both = {**tags, **own}
                    full = name + "".join(
                        f",{key}={_word(value)}" for key, value in shortened(both).items()
                    )
                    written[kind][full] = {**fixed, **referred}
                    made.append((full, both))
            variants[kind][name] = made
    return variants, written


def _references(
    kind: str, entry: dict[str, Any], variants: dict[str, dict[str, list[tuple[str, Tags]]]]
) -> Iterator[tuple[dict[str, Any], Tags]]:
    """The entry's references replaced by each variant of what they name, with its tags. Variants
    that stand for different values of one place do not go together."""
    wanted: list[tuple[str, str, str]] = []
    if kind == "distill":
        wanted += [("target", "fuse", entry["target"])] if entry.get("target") else []
        wanted += [("start", "distill", entry["start"])] if entry.get("start") else []
    if kind == "merge" and isinstance(entry.get("models"), list):
        wanted += [("models", "distill", str(model)) for model in entry["models"]]
    options = [variants[where].get(name) or [(name, {})] for _, where, name in wanted]
    for chosen in itertools.product(*options):
        tags: Tags = {}
        if any(tags.setdefault(key, value) != value for _, t in chosen for key, value in t.items()):
            continue
        replaced: dict[str, Any] = {}
        for (field, _, _), (name, _) in zip(wanted, chosen, strict=True):
            replaced[field] = [*replaced.get(field, []), name] if field == "models" else name
        yield replaced, tags


def _lists(values: Any, annotation: Any, path: str) -> Iterator[tuple[str, list[Any]]]:
    """(path, options) for every list that stands where its field does not take one, and for every
    list of lists where the field takes a list."""
    schema = _schema_in(annotation)
    if isinstance(values, list):
        if not _takes_list(annotation) or (values and all(isinstance(v, list) for v in values)):
            yield path, values
        elif schema is not None:
            for place, value in enumerate(values):
                yield from _lists(value, schema, f"{path}.{place}")
    elif isinstance(values, dict):
        fields = schema.model_fields if schema is not None else {}
        by_name = get_origin(_without_none(annotation)) is dict
        for key, value in values.items():
            inner: Any = None
            if by_name:
                inner = get_args(_without_none(annotation))[1]
            elif key in fields:
                inner = fields[key].annotation
            yield from _lists(value, inner, f"{path}.{key}" if path else str(key))


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


def _stands_in(name: str, values: Any) -> bool:
    """Whether {name} stands in a string of the recipe."""
    if isinstance(values, dict):
        return any(_stands_in(name, value) for value in values.values())
    if isinstance(values, list):
        return any(_stands_in(name, value) for value in values)
    return isinstance(values, str) and f"{{{name}}}" in values


def _filled(values: Any, names: Mapping[str, Any]) -> Any:
    """The recipe with placeholders filled in; a string that is nothing else becomes the value."""
    if isinstance(values, dict):
        return {key: _filled(value, names) for key, value in values.items()}
    if isinstance(values, list):
        return [_filled(value, names) for value in values]
    if isinstance(values, str):
        for name, value in names.items():
            if values == f"{{{name}}}":
                return value
            values = values.replace(f"{{{name}}}", str(value))
    return values


def _laid_over(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, change in changes.items():
        here = found.get(key)
        if change is None:
            found.pop(key, None)
        elif isinstance(change, dict) and isinstance(here, dict):
            found[key] = _laid_over(here, change)
        else:
            found[key] = change
    return found


def _copy(values: Any) -> Any:
    return _filled(values, {})


def _put(values: Any, path: str, value: Any) -> None:
    """Set one key by its path; RecipeError where a step of it is no mapping or list place."""
    *parents, last = path.split(".")
    for key in parents:
        if isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        elif isinstance(values, dict):
            values = values.setdefault(key, {})
        else:
            raise RecipeError(f"settings.{path}: there is no '{key}' to go into.")
    if isinstance(values, list):
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        raise RecipeError(f"settings.{path}: '{last}' stands in a value that has no keys.")


def _require_placeholders(sweep: Sweep, values: Mapping[str, Any], path: Path) -> None:
    """A setting is a placeholder, or a path that begins with a key of a recipe."""
    for key in sweep.settings:
        if not _stands_in(key, values) and key.split(".")[0] not in Recipe.model_fields:
            raise RecipeError(
                f"{path}: settings.{key}: {{{key}}} stands nowhere in the recipe, and a recipe has "
                f"no key '{key.split('.')[0]}'.{nearest(key, Recipe.model_fields)}"
            )


def _arms(
    sweep: Sweep,
    recipe: Recipe,
    variants: dict[str, dict[str, list[tuple[str, Tags]]]],
    path: Path,
) -> list[str]:
    plan = recipe.resolve()
    all_runs = [run.name for run in plan.runs]
    everything = [*all_runs, *recipe.merge]
    known = ["pivot", *(f"source:{name}" for name in recipe.sources), *everything]
    if sweep.arms is None:
        single = [run.name for run in plan.runs if run.name == run.group]
        return ["pivot", *single, *recipe.merge]
    found = []
    for arm in sweep.arms:
        names = [arm] if arm in known else _variants_of(arm, variants)
        names = [name for name in names if name in known]
        if not names:
            hint = nearest(arm, [*known, *variants["distill"], *variants["merge"]])
            raise RecipeError(f"{path}: arms: there is no model '{arm}'.{hint}")
        found += [name for name in names if name not in found]
    return found


def _variants_of(name: str, variants: dict[str, dict[str, list[tuple[str, Tags]]]]) -> list[str]:
    made = variants["distill"].get(name, []) + variants["merge"].get(name, [])
    return [full for full, _ in made]


def _against(
    sweep: Sweep,
    recipe: Recipe,
    variants: dict[str, dict[str, list[tuple[str, Tags]]]],
    arms: list[str],
    path: Path,
) -> list[str]:
    if not sweep.against:
        plain = [run.name for run in recipe.resolve().runs if run.target is None]
        return [name for name in plain if name in arms] or [n for n in ("pivot",) if n in arms]
    found = []
    for wanted in sweep.against:
        names = [wanted] if wanted in arms else _variants_of(wanted, variants)
        if not (names := [name for name in names if name in arms]):
            raise RecipeError(f"{path}: against: '{wanted}' is not among the arms.")
        found += names
    return found


def _folder_name(setting: Tags, seed: int) -> str:
    parts = [f"{key}={_word(value)}" for key, value in shortened(setting).items()]
    return "/".join([",".join(parts) or "all", f"seed{seed}"])


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    text = value if isinstance(value, str) else str(value).replace(" ", "").replace("'", "")
    return re.sub(r"[^A-Za-z0-9_.+\-\[\]]", "-", text)[:60]
