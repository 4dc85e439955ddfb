"""A sweep: one recipe with lists in place of values, seeds, and the models to compare.

Lists in `fuse`, `distill` and `merge` make *arms*: one variant of the entry per value, and of all
that follow from it. Lists elsewhere, and `settings`, make *settings*: each is a run of its own, in
which all arms are trained again. A field that is a list by nature varies by a list of lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from infifusion.errors import RecipeError
from infifusion.recipe import LONGEST_NAME, Recipe, anchor
from infifusion.recipe.variants import (
    ARMS,
    Tags,
    Variants,
    combinations,
    file_word,
    filled,
    laid_over,
    lists_in,
    put,
    shortened,
    stands_in,
    write_out,
)
from infifusion.registry import nearest
from infifusion.strict import Strict, override, read_yaml, require_kind


class Sweep(Strict):
    """A sweep file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
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
    source:NAME. By default the pivot, runs and merges, without the members of an `each`."""
    against: list[str] = []
    """Arms that every other arm is compared with; by default the runs without a target (SFT), or
    the pivot where there is none."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, a setting with a seed: a recipe that holds every arm, and what to compare
    in it."""

    folder: str
    setting: Tags
    """Place of each value that varies -> the value."""
    seed: int
    recipe: Recipe
    arms: list[str]
    against: list[str]

    @property
    def words(self) -> str:
        """The setting in a few words; empty where nothing varies."""
        return ", ".join(f"{short}={value}" for short, value in shortened(self.setting).items())


def load_sweep(path: Path, assignments: list[str]) -> tuple[Sweep, list[SweepRun]]:
    """Read a sweep file and write out every recipe it stands for, seeds outermost.

    Raises RecipeError for whatever is wrong with the file or with any of its recipes.
    """
    values = read_yaml(path)
    require_kind(values, "sweep file", path)
    sweep = Sweep.from_mapping(override(values, assignments), where=str(path))
    folder, where, values = path.parent.resolve(), str(path), sweep.recipe
    if isinstance(values, str):
        inner = (folder / Path(values).expanduser()).resolve()
        folder, where, values = inner.parent, str(inner), read_yaml(inner)
    values = laid_over({**values, "name": sweep.name}, sweep.changes)
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise RecipeError(f"{path}: seeds names a seed twice: {sweep.seeds}. Remove one.")
    _require_placeholders(sweep, values, path)
    runs = []
    options = _settings(sweep, values)
    varied = {key for key, values_of in options.items() if len(values_of) > 1}
    for seed in sweep.seeds:
        for chosen in combinations(options.values(), str(path)):
            setting = dict(zip(options, chosen, strict=True))
            fixed = _with_setting(sweep, values, setting, seed)
            variants, written = write_out(fixed)
            recipe = anchor(Recipe.from_mapping(written, where=where), folder)
            if recipe.evaluate.samples > 1:
                raise RecipeError(
                    f"{path}: evaluate.samples is {recipe.evaluate.samples}; a sweep compares one "
                    "answer to every item over its seeds. Remove it, or draw one sample."
                )
            arms = _arms(sweep, recipe, variants, path)
            against = _against(sweep, recipe, variants, arms, path)
            recipe = recipe.model_copy(
                update={"evaluate": recipe.evaluate.model_copy(update={"models": arms})}
            )
            named = {key: value for key, value in setting.items() if key in varied}
            runs.append(SweepRun(_folder_name(named, seed), named, seed, recipe, arms, against))
    return sweep, runs


def _settings(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What varies by setting: `settings`, and the lists outside fuse, distill and merge."""
    outside = {key: value for key, value in values.items() if key not in ARMS}
    varied = {**sweep.settings, **dict(lists_in(outside, Recipe, ""))}
    for key, options in varied.items():
        if not options:
            raise RecipeError(f"{key}: expected values to choose from, found an empty list.")
    return varied


def _with_setting(
    sweep: Sweep, values: Mapping[str, Any], setting: Tags, seed: int
) -> dict[str, Any]:
    """The recipe's values with one setting and seed."""
    fixed: Any = filled(values, {**{key: setting[key] for key in sweep.settings}, "seed": seed})
    for key, value in setting.items():
        if not (key in sweep.settings and stands_in(key, values)):
            put(fixed, key, value)
    return {**fixed, "seed": seed}


def _require_placeholders(sweep: Sweep, values: Mapping[str, Any], path: Path) -> None:
    """A setting is a placeholder, or a path that begins with a key of a recipe."""
    for key in sweep.settings:
        if not stands_in(key, values) and key.split(".")[0] not in Recipe.model_fields:
            raise RecipeError(
                f"{path}: settings.{key}: {{{key}}} stands nowhere in the recipe, and a recipe has "
                f"no key '{key.split('.')[0]}'.{nearest(key, Recipe.model_fields)}"
            )


def _arms(sweep: Sweep, recipe: Recipe, variants: Variants, path: Path) -> list[str]:
    """The models to compare, each variant by its own name."""
    written_out = recipe.resolve()
    made = [*(run.name for run in written_out.runs), *recipe.merge]
    untuned = [f"untuned:{run.name}" for run in written_out.tuned]
    known = ["pivot", *(f"source:{name}" for name in recipe.sources), *untuned, *made]
    if sweep.arms is None:
        single = [run.name for run in written_out.runs if run.name == run.group]
        return ["pivot", *single, *recipe.merge]
    arms: list[str] = []
    for arm in sweep.arms:
        names = _named(arm, known, variants)
        if not names:
            hint = nearest(arm, [*known, *variants["distill"], *variants["merge"]])
            raise RecipeError(
                f"{path}: arms: there is no model '{arm}'.{hint} Models: {', '.join(known)}."
            )
        arms += [name for name in names if name not in arms]
    return arms


def _against(
    sweep: Sweep, recipe: Recipe, variants: Variants, arms: list[str], path: Path
) -> list[str]:
    """The arms that every other arm is compared with."""
    if not sweep.against:
        plain = [run.name for run in recipe.resolve().runs if run.target is None]
        return [name for name in plain if name in arms] or [n for n in ("pivot",) if n in arms]
    bases: list[str] = []
    for wanted in sweep.against:
        if not (names := _named(wanted, arms, variants)):
            raise RecipeError(
                f"{path}: against: '{wanted}' is not among the arms ({', '.join(arms)}). Add it to "
                "arms, or name one of them."
            )
        bases += names
    return bases


def _named(name: str, known: list[str], variants: Variants) -> list[str]:
    """The known models that a name of the sweep file stands for: one, or the variants of one."""
    if name in known:
        return [name]
    made = variants["distill"].get(name, []) + variants["merge"].get(name, [])
    return [full for full, _ in made if full in known]


def _folder_name(setting: Tags, seed: int) -> str:
    parts = [f"{file_word(key)}={file_word(value)}" for key, value in shortened(setting).items()]
    return "/".join([",".join(parts) or "all", f"seed{seed}"])
