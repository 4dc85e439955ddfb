"""Models that run in an engine: what does not go together with one, as sentences."""

from __future__ import annotations

from collections.abc import Iterable

from infifusion.recipe.fields import Fields
from infifusion.recipe.models import Model

LOADING = ("dtype", "device_map", "quantization", "attn_implementation")
"""How a model is loaded here: of an engine's model its server decides that."""


def engine_problems(recipe: Fields) -> Iterable[str]:
    """What cannot be had of a model that runs in an engine, as sentences."""
    engine = recipe.pivot.engine
    if engine is not None and engine.command is None:
        yield (
            "pivot.engine: every model that is made of the pivot is scored too, so give a command "
            "in which {model} stands for its folder, not a url"
        )
    elif engine is not None and not engine.takes_any_model:
        yield "pivot.engine.command: {model} must stand in it, for the folder of what is scored"
    behind = [name for name, source in recipe.sources.items() if source.engine is not None]
    for name in behind:
        yield from _source_problems(f"sources.{name}", recipe.sources[name])
        own = recipe.sources[name].engine
        if own is not None and recipe.sources[name].tune is not None and not own.takes_any_model:
            yield (
                f"sources.{name}.engine: the copy that `tune` makes teaches; give a command in "
                "which {model} stands for its folder, or remove one of the two"
            )
    taught = {name: fuse.sources or [*recipe.sources] for name, fuse in recipe.fuse.items()}
    for name, fuse in recipe.fuse.items():
        also = ["pivot"] if engine is not None and fuse.pivot_as_source else []
        found = [*also, *(source for source in taught[name] if source in behind)]
        if fuse.teacher == "online" and found:
            yield (
                f"fuse.{name}.teacher: online runs the sources in this process, and {found[0]} has "
                "an engine; take teacher: cached"
            )
    for name, distill in recipe.distill.items():
        fuse = recipe.fuse.get(distill.target or "")
        own = distill.on_policy is not None and distill.on_policy.share > 0
        found = [one for one in taught.get(distill.target or "", []) if one in behind]
        if own and fuse is not None and found:
            yield (
                f"distill.{name}.on_policy: sources correct the pivot in this process, and "
                f"{found[0]} has an engine; remove on_policy, or that engine"
            )


def _source_problems(where: str, source: Model) -> Iterable[str]:
    fields = type(source).model_fields
    for key in LOADING:
        if getattr(source, key) != fields[key].default:
            yield f"{where}.{key}: its engine decides that; remove it, or the engine"
    if source.temperature != 1:
        yield (
            f"{where}.temperature: dividing by it takes all logits, which no server gives; remove "
            "it, or the engine"
        )
