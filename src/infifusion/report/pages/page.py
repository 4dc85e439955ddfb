"""report/index.html and summary.json of a run: one page that needs no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from infifusion.report.document import document, write_text
from infifusion.report.pages.alignment import coverage_view, teachers_view, worst_tokens_view
from infifusion.report.pages.bits import bits_view
from infifusion.report.pages.cost import cost_view
from infifusion.report.pages.items import items_view
from infifusion.report.pages.left_out import data_view, left_out_view
from infifusion.report.pages.merges import merge_view
from infifusion.report.pages.own_text import own_text_view
from infifusion.report.pages.reproduce import settings_view
from infifusion.report.pages.responses import responses_view
from infifusion.report.pages.scores import scores_view
from infifusion.report.pages.teaching import teaching_view
from infifusion.report.pages.tokens import tokens_view
from infifusion.report.pages.training import training_view
from infifusion.report.run_folder import KINDS, Run, read_run, run_as_written
from infifusion.report.summary import write_summary
from infifusion.report.use import use_view

STYLES = ("base.css", "charts.css", "parts.css")
SCRIPTS = ("dom.js", "theme.js", "tabs.js", "curves.js", "items.js", "tokens.js", "copy.js")
VIEWS: dict[str, Callable[[Run], Any]] = {
    "scores": scores_view,
    "bits": bits_view,
    "items": items_view,
    "teaching": teaching_view,
    "tokens": tokens_view,
    "responses": responses_view,
    "training": training_view,
    "own_text": own_text_view,
    "merges": merge_view,
    "coverage": coverage_view,
    "worst": worst_tokens_view,
    "teachers": teachers_view,
    "cost": cost_view,
    "data": data_view,
    "left_out": left_out_view,
    "usable": use_view,
    "settings": settings_view,
}
"""What the page's template names, in the order of the questions: is it better, who taught it what,
what did it cost, how is it used, how is it made again."""


def write_report(run_dir: Path) -> Path:
    """Write RUN_DIR/summary.json and RUN_DIR/report/index.html, each whole or not at all.

    Returns the page's path. Reads JSON only; a part that the run does not have is said to be
    missing. Raises ArtifactError when `run_dir` is no run folder or a file in it is damaged.
    """
    with run_as_written(str(run_dir)):
        run = read_run(run_dir)
        text = document(
            "page.html",
            styles=STYLES,
            scripts=SCRIPTS,
            name=run.name,
            kinds=KINDS,
            kind_of=run.kind_of,
            **{name: view(run) for name, view in VIEWS.items()},
        )
    write_summary(run)
    return write_text(run_dir / "report" / "index.html", text)
