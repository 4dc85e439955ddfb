"""report: the page with everything that a run has found, and a card for each of its models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from infifusion.errors import RunError
from infifusion.evals.tasks import Task
from infifusion.process.runtime import console, log
from infifusion.recipe import Recipe, as_written
from infifusion.report.card import write_model_card
from infifusion.report.last_word import last_words
from infifusion.report.pages.page import write_report
from infifusion.report.summary import summarise
from infifusion.report.table import console_table
from infifusion.store.folders import RunFolder
from infifusion.store.lock import LOCK, vanished
from infifusion.store.records import Json


def report(recipe: Recipe, folder: RunFolder, tasks: Mapping[str, Task]) -> Path:
    """Write cards, report/index.html and summary.json; print the table; returns the page.

    Raises RunError where the run's folder has vanished meanwhile.
    """
    held = (folder.root / LOCK).exists()
    summary = write_cards(recipe, folder, tasks)
    page = write_report(folder.root)
    if held and not (folder.root / LOCK).exists():  # the page lies in a new folder, alone
        raise RunError(vanished(folder.root))
    console.print(console_table(summary))
    for words in last_words(folder, recipe.resolve()):
        log.info("%s", words)
    log.info("Report: %s", page)
    return page


def write_cards(recipe: Recipe, folder: RunFolder, tasks: Mapping[str, Task]) -> Json:
    """Write README.md and the recipe beside the weights of each distilled and merged model; returns
    the summary of the run. A model that is not scored yet gets a card that says so."""
    resolved, summary = recipe.resolve(), summarise(folder.root)
    made = [(folder.merge(one.name) / "model", one.name, one.method) for one in resolved.merges]
    for run in resolved.runs:
        kind = "sft" if run.target is None else "unified" if run.name == run.group else "pairwise"
        made.append((folder.distill(run.name) / "model", run.name, kind))
    asked = recipe.write_responses
    data = [
        source.path
        for source in [*recipe.data.train, *recipe.data.prompts, *(asked.prompts if asked else [])]
    ]
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
    return summary
