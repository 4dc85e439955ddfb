"""A model card for every checkpoint that a run made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infifusion.recipe import Recipe, as_written
from infifusion.report.card import write_model_card
from infifusion.stages.evaluate import task_table
from infifusion.store.folders import RunFolder


def write_cards(recipe: Recipe, folder: RunFolder, summary: dict[str, Any]) -> None:
    """README.md and the recipe beside the weights of each distilled and merged model. summary: what
    `summarise` returns; a model that it does not score yet gets a card that says so."""
    plan = recipe.resolve()
    made: list[tuple[Path, str, str]] = [
        (folder.merge(merge.name) / "model", merge.name, merge.method) for merge in plan.merges
    ]
    for run in plan.runs:
        kind = "sft" if run.target is None else "unified" if run.name == run.group else "pairwise"
        made.append((folder.distill(run.name) / "model", run.name, kind))
    asked = recipe.write_responses
    data = [source.path for source in [*recipe.data.train, *(asked.prompts if asked else [])]]
    tasks = task_table(recipe)
    for model_dir, name, method in made:
        if model_dir.is_dir():
            write_model_card(
                model_dir,
                name=name,
                recipe=as_written(recipe),
                summary=summary,
                base_model=recipe.pivot.model,
                sources={source: model.model for source, model in recipe.sources.items()},
                method=method,
                data=data,
                task_data={key: (task.hub, task.split) for key, task in tasks.items() if task.hub},
            )
